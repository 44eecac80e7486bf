"""What becomes of containers when a plan changes: which go, which are made, what each other is told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.agent.change import Change, difference
from harness.drivers.k3d.parts import Container


@dataclass(frozen=True)
class Difference:
    """Containers to remove (some to be made anew), to make, and the changes that agents make in those that stay."""

    gone: tuple[str, ...]
    made: tuple[Container, ...]
    changed: tuple[tuple[Container, Change], ...]


def compare(
    before: Sequence[Container], after: Sequence[Container], anew: Collection[str] = ()
) -> Difference:
    """Return how to get from one lab to another; containers whose cards differ, and those named, are made anew."""
    old, new = ({one.name: one for one in containers} for containers in (before, after))
    changes = {
        name: difference(old[name].payload, new[name].payload, [one for one in anew if one != name])
        for name in old.keys() & new.keys()
    }
    stays = [
        name
        for name, change in changes.items()
        if name not in anew and name not in change.gone and _same_box(old[name], new[name])
    ]
    return Difference(
        tuple(name for name in old if name not in stays),
        tuple(one for name, one in new.items() if name not in stays),
        tuple((one, changes[name]) for name, one in new.items() if name in stays),
    )


def _same_box(old: Container, new: Container) -> bool:
    """Tell whether the engine made the same of both."""
    return (old.cards, old.sysctls, old.capabilities) == (new.cards, new.sysctls, new.capabilities)
