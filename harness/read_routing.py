"""The routes that scenarios speak of: waited for before the flow, read after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness import bird, lookup, ready
from harness.lab_words import seconds_of
from harness.routing import Routing, Steps, changes
from harness.verdict import outcome_of

if TYPE_CHECKING:
    from harness.running import Mark, RunningLab
    from harness.scenario import Item, RouteTo

CONVERGENCE_SECONDS = 10.0
"""How long routes are waited for where a scenario does not bound it; what they are then is judged."""

_LOOK_AGAIN_SECONDS = 0.01
_TOLD_SECONDS = 1.0
"""The kernel's notifications are read by another thread than its tables."""


@dataclass(frozen=True)
class Since:
    """A mark from which changes of routes count, and the steps that were done since."""

    mark: Mark
    steps: Steps = field(default_factory=Steps)


def await_routes(lab: RunningLab, items: Sequence[Item], since: Since) -> None:
    """Return when the kernels' tables are as the scenario says, or the time for it is up; the verdict says which.

    Only kernels are asked: a question would wake a BIRD that sleeps.
    """
    is_so = lookup.find("checks", "routes").is_so
    for entry in _entries(items):
        limit = max(
            (seconds_of(bound) for bound in (entry.within, entry.after) if bound), default=CONVERGENCE_SECONDS
        )

        def as_said(entry: RouteTo = entry) -> bool:
            held: bool = is_so(entry, lab.routing(entry.at), lab.plan, lab.bindings, since.steps)
            return held

        try:
            what = f"the route of {entry.at} to {entry.to}"
            ready.until(what, as_said, seconds=limit + 1, every=_LOOK_AGAIN_SECONDS)
        except ready.NotInTime:
            return


def read_routing(lab: RunningLab, items: Sequence[Item], since: Since) -> Mapping[str, Routing]:
    """Return the tables of every node of whose routes the scenario speaks, and their changes since the mark."""
    found: dict[str, Routing] = {}
    for node in dict.fromkeys(entry.at for entry in _entries(items)):
        control = bird.control(node, lab.bindings) if bird.runs_on(lab.plan.node(node), lab.plan) else ""
        found[node] = lab.routing(node, control)
    if not found:
        return found
    with suppress(ready.NotInTime):  # what is not told by then did not change, or was lost
        ready.until("changes told", lambda: _are_told(lab, items, since, found), seconds=_TOLD_SECONDS)
    raw = lab.collect(since.mark, ("routes",))
    return {
        node: replace(tables, changes=changes(raw.routes.get(node, ())), lost=raw.lost.get(node, ""))
        for node, tables in found.items()
    }


def _are_told(lab: RunningLab, items: Sequence[Item], since: Since, tables: Mapping[str, Routing]) -> bool:
    """Tell whether the kernel's notifications are as far as its tables, where a scenario asks when those changed."""
    told = lab.collect(since.mark, ("routes",)).routes
    places = lookup.find("checks", "routes").destinations
    for entry in _entries(items):
        if entry.within is None and entry.after is None:
            continue
        for network in places(entry.to, lab.plan, lab.bindings, since.steps):
            there = any(route.destination == network for route in tables[entry.at].kernel)
            last = [one.added for one in changes(told.get(entry.at, ())) if one.route.destination == network]
            if not last or last[-1] != there:
                return False
    return True


def _entries(items: Sequence[Item]) -> Iterable[RouteTo]:
    """Return what is said of routes, once where a load says it of each of its flows."""
    return dict.fromkeys(entry for item in items for entry in outcome_of(item.scenario.expect)[1].routes)
