"""The difference between two payloads: what a running lab must give up, make and start to become the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from harness.agent.layout import Neighbour, Payload, PlacedFile, Route, Space, Start


@dataclass(frozen=True)
class Kept:
    """What changes in a space that stays: its rules (None: as they are), routes and neighbours."""

    space: Space
    rules: str | None
    routes_gone: tuple[Route, ...]
    routes_new: tuple[Route, ...]
    neighbours_new: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Change:
    """In the order of doing: stop programs, remove spaces, write files, make spaces, change the kept, start.

    At last those in `applying` are waited for, whose live files changed, and where it `lets_pass`, connections that
    began with the files before.
    """

    stops: tuple[tuple[str, str], ...]
    gone: tuple[str, ...]
    files_gone: tuple[str, ...]
    files: tuple[PlacedFile, ...]
    new: tuple[Space, ...]
    kept: tuple[Kept, ...]
    starts: tuple[Start, ...]
    applying: tuple[Start, ...]
    payload: Payload
    lets_pass: bool = False

    def words(self) -> Iterator[str]:
        """Yield a line for each thing that changes, for a person."""
        yield from (f"- {name}" for name in self.gone)
        yield from (f"+ {space.name}" for space in self.new)
        for one in self.kept:
            parts = [
                word
                for word, changes in (("rules", one.rules), ("routes", one.routes_gone + one.routes_new))
                if changes
            ]
            yield f"~ {one.space.name}: {', '.join(parts) or 'neighbours'}"
        again = {(start.space, start.name) for start in self.starts} & set(self.stops)
        yield from (f"~ {space}: {name} is started anew" for space, name in sorted(again))
        anew = {space for space, _ in again}
        replaced = {file.node for file in self.files if file.live} - anew - {space.name for space in self.new}
        yield from (f"~ {node}: files are replaced" for node in sorted(replaced))


def difference(old: Payload, new: Payload, anew: Collection[str] = ()) -> Change:
    """Return how to get from one payload to another; spaces whose interfaces differ, and those named, are made anew."""
    before = {space.name: space for space in old.layout.spaces}
    after = {space.name: space for space in new.layout.spaces}
    same = _same(before, after, anew)
    stays = same | {""}
    known = {file.path: file for file in old.files}
    files = tuple(file for file in new.files if known.get(file.path) != file or file.node not in stays)
    paths = {file.path for file in new.files}
    gone = [file for file in old.files if file.path not in paths or file.node not in stays]
    replaced = {file for file in files if file.live and file.node in same and file.path in known}
    touched = {file.node for file in (*gone, *files) if file not in replaced}
    running = {(start.space, start.name): start for start in old.starts}
    wanted = {(start.space, start.name): start for start in new.starts}
    left = {
        key
        for key in running.keys() & wanted.keys()
        if key[0] in same and key[0] not in touched and _runs_on(running[key], wanted[key])
    }
    told = {file.node for file in replaced}

    def has_news(key: tuple[str, str]) -> bool:
        return wanted[key] != running[key] or (key[0] in told and wanted[key].applied_by != "nothing")

    return Change(
        stops=tuple(key for key in running if key not in left),
        gone=tuple(name for name in before if name not in same),
        files_gone=tuple(file.path for file in gone),
        files=files,
        new=tuple(space for name, space in after.items() if name not in same),
        kept=tuple(_kept(before, after, same)),
        starts=tuple(start for key, start in wanted.items() if key not in left),
        applying=tuple(wanted[key] for key in running if key in left and has_news(key)),
        payload=new,
    )


def _runs_on(old: Start, new: Start) -> bool:
    """Tell whether a program may stay as it is; what its live files say, and what it is to learn, is another matter."""
    waits = replace(new, ready_by=old.ready_by, ready_value=old.ready_value)
    return replace(waits, applied_by=old.applied_by, applied_value=old.applied_value) == old


def _same(before: dict[str, Space], after: dict[str, Space], anew: Collection[str]) -> set[str]:
    """Return the spaces that stay: those that can, and whose interfaces do not end in one that goes."""
    both = (before.keys() & after.keys()) - set(anew)
    same = {name for name in both if _stands(before[name], after[name])}
    while True:
        torn = {name for name in same if any(nic.peer_space not in {None, *same} for nic in after[name].nics)}
        if not torn:
            return same
        same -= torn


def _stands(old: Space, new: Space) -> bool:
    """Tell whether a space can stay: only its rules, routes and neighbours may be changed in place."""
    free = {"rules": "", "routes": (), "neighbours": ()}
    return replace(old, **free) == replace(new, **free)  # type: ignore[arg-type]


def _kept(before: dict[str, Space], after: dict[str, Space], same: set[str]) -> Iterator[Kept]:
    for name, new in after.items():
        if name not in same or before[name] == new:
            continue
        old = before[name]
        yield Kept(
            space=new,
            rules=new.rules if new.rules != old.rules else None,
            routes_gone=tuple(route for route in old.routes if route not in new.routes),
            routes_new=tuple(route for route in new.routes if route not in old.routes),
            neighbours_new=tuple(entry for entry in new.neighbours if entry not in old.neighbours),
        )
