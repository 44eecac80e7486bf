"""Two runs of a lab compared, flow by flow: verdict, who decided by which rule, translated sources, time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError

FLOWS = "flows.jsonl"
_NEEDED = ("id", "verdict", "findings", "decided", "translated", "started", "ended")
_STATES = ("broken", "unknown", "held")
_LEAST_SECONDS = 0.1
"""Times that are not further apart are the same, whatever their ratio: a machine has other things to do."""


@dataclass(frozen=True)
class Flow:
    """What a run's file says of one flow; `decided` and `translated` in the order of its hops, `seconds` the client's.

    `decided` has (hop, decision, rule), `translated` (hop, source before, source after) without ports.
    """

    id: str
    verdict: str
    reasons: tuple[str, ...]
    decided: tuple[tuple[str, str, str], ...]
    translated: tuple[tuple[str, str, str], ...]
    seconds: float | None


@dataclass(frozen=True)
class RunFile:
    """A run as it was written down."""

    path: str
    lab: str
    head: Mapping[str, Any]
    flows: Mapping[str, Flow]


@dataclass(frozen=True)
class Change:
    """One thing that differs in a flow: which, as it was, and as it is."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, by flow; `slower` are flows whose time differs by more than a factor."""

    changed: Mapping[str, tuple[Change, ...]]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    slower: Mapping[str, tuple[float, float]]
    same: tuple[str, ...]
    around: tuple[Change, ...]
    """Of the runs themselves: driver, versions."""

    @property
    def differs(self) -> bool:
        """Whether any flow differs in more than its time."""
        return bool(self.changed or self.gone or self.new)


def read_run(path: Path) -> RunFile:
    """Return a run by its folder, or by the flows.jsonl in it; raises InputError with the line that is wrong."""
    file = path / FLOWS if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a run's folder, as out/LAB/latest") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: it is not UTF-8, and so no {FLOWS}") from error
    records = [_object(file, number, line) for number, line in enumerate(lines, 1)]
    if not records or "lab" not in records[0]:
        raise InputError(f"{file}:1: it does not begin with a run, and so is no {FLOWS}")
    flows = {}
    for number, record in enumerate(records[1:], 2):
        missing = [key for key in _NEEDED if key not in record]
        if missing:
            raise InputError(f"{file}:{number}: no {missing[0]!r}; was it written by an earlier version?")
        try:
            flow = _flow(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}:{number}: this is no flow of a run ({error!r})") from error
        flows[flow.id] = flow
    return RunFile(str(path), str(records[0]["lab"]), records[0], flows)


def compare(before: RunFile, after: RunFile, factor: float) -> Comparison:
    """Return what differs; raises InputError for runs of different labs."""
    if before.lab != after.lab:
        raise InputError(f"{before.path} is of lab {before.lab!r}, {after.path} of {after.lab!r}")
    both = [name for name in before.flows if name in after.flows]
    changed = {name: tuple(_changes(before.flows[name], after.flows[name])) for name in both}
    times = {name: (before.flows[name].seconds, after.flows[name].seconds) for name in both}
    return Comparison(
        dict(sorted(_only(changed), key=lambda pair: _rank(pair[1], after.flows[pair[0]]))),
        tuple(name for name in before.flows if name not in after.flows),
        tuple(name for name in after.flows if name not in before.flows),
        {
            name: (one, other)
            for name, (one, other) in times.items()
            if one is not None and other is not None and _apart(one, other, factor)
        },
        tuple(name for name, changes in changed.items() if not changes),
        tuple(_around(before.head, after.head)),
    )


def _only(changed: Mapping[str, tuple[Change, ...]]) -> Iterator[tuple[str, tuple[Change, ...]]]:
    yield from ((name, changes) for name, changes in changed.items() if changes)


def _rank(changes: tuple[Change, ...], now: Flow) -> int:
    """Return where a flow stands among those that differ: what became broken first."""
    return _STATES.index(now.verdict) if changes[0].what == "verdict" else len(_STATES)


def _changes(one: Flow, other: Flow) -> Iterator[Change]:
    if one.verdict != other.verdict:
        yield Change("verdict", _verdict(one), _verdict(other))
    if sorted(one.decided) != sorted(
        other.decided
    ):  # hops that saw a packet at nearly one moment change places
        yield Change(
            "decided", _told(one.decided, "{0}: {1} by {2}"), _told(other.decided, "{0}: {1} by {2}")
        )
    if sorted(_sources(one)) != sorted(_sources(other)):
        yield Change(
            "SNAT", _told(one.translated, "{0}: {1} to {2}"), _told(other.translated, "{0}: {1} to {2}")
        )


def _sources(flow: Flow) -> list[tuple[str, str]]:
    """Return who translated to what; what it was before is a pod's address, which another driver chooses otherwise."""
    return [(hop, after) for hop, _, after in flow.translated]


def _verdict(flow: Flow) -> str:
    """Return a verdict with its first reason; the others stand in the run's own files."""
    more = f", and {len(flow.reasons) - 1} more" if len(flow.reasons) > 1 else ""
    return f"{flow.verdict}: {flow.reasons[0]}{more}" if flow.reasons else flow.verdict


def _told(rows: Sequence[tuple[str, str, str]], form: str) -> str:
    return "; ".join(form.format(*row).removesuffix(" by ") for row in rows) or "nobody"


def _apart(one: float, other: float, factor: float) -> bool:
    return abs(one - other) > _LEAST_SECONDS and max(one, other) > factor * min(one, other)


def _around(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key in ("egresslab", "driver"):
        if before.get(key) != after.get(key):
            yield Change(key, str(before.get(key)), str(after.get(key)))
    old, new = before.get("versions") or {}, after.get("versions") or {}
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield Change(key, str(old.get(key)), str(new.get(key)))


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}:{number}: it is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}:{number}: it is not a JSON object")
    return found


def _flow(record: Mapping[str, Any]) -> Flow:
    state = str(record["verdict"])
    reasons = [
        f"{one['at']}: expected {one['expected']}; seen: {one['seen']}"
        for one in record["findings"]
        if one["state"] == state != "held"
    ]
    if state not in _STATES:
        raise ValueError(f"verdict {state!r}")
    started, ended = record["started"], record["ended"]
    return Flow(
        str(record["id"]),
        state,
        tuple(reasons),
        tuple((str(one["at"]), str(one["decision"]), str(one["by"])) for one in record["decided"]),
        tuple((str(one["at"]), str(one["from"]), str(one["to"])) for one in record["translated"]),
        (int(ended) - int(started)) / 1e9 if started is not None and ended is not None else None,
    )
