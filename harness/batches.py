"""Which cases are tried in one window, judged by the same recordings, and what is kept of those when they are.

Only probes are: their source ports are bound beforehand, and so everything seen of each can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.evidence import Evidence
from harness.passport import Passport
from harness.plan import Plan
from harness.scenario import Allowed, Item
from harness.verdict import Verdict, outcome_of

MOST_TOGETHER = 1000
"""Cases in one window: the packets of so many flows are in memory at once, some 70 KB each."""

Judged = tuple[Evidence, Passport, Verdict]


def is_probed_denial(item: Item) -> bool:
    """Tell whether an item may be tried together with others that rest on the same control."""
    return _is_plain(item) and outcome_of(item.scenario.expect)[0] != "allowed"


def is_one_of_many(item: Item, plan: Plan) -> bool:
    """Tell whether an allowed item may be tried together with others of its scenario.

    Not where the flow passes a forward proxy, whose log names no ports: flows at the same time cannot be told apart.
    """
    _, outcome = outcome_of(item.scenario.expect)
    if not isinstance(outcome, Allowed) or not _is_plain(item) or item.scenario.stable:
        return False
    return not {node.name for node in plan.of_kind("forward-proxy")}.intersection(outcome.path)


def beside(item: Item, selected: Sequence[Item], done: Mapping[str, object]) -> list[Item]:
    """Return an item and those of the selected ones, as far as they are not done, that are tried with it."""
    denied = is_probed_denial(item)
    found = [item]
    for other in selected:
        if len(found) == MOST_TOGETHER:
            break
        same = (
            is_probed_denial(other)
            and other.scenario.control == item.scenario.control
            and not other.scenario.stable
            if denied
            else other.scenario is item.scenario
        )
        if same and other.id not in done and other.id != item.id:
            found.append(other)
    return found


def lean(judged: Sequence[Judged]) -> list[Judged]:
    """Return what is kept of many flows that were tried together: passports and verdicts, and no packets.

    Ten thousand flows would fill the memory; what the taps recorded is in the run's capture.
    """
    if len(judged) == 1:
        return list(judged)
    recorded = replace(judged[0][0].recorded, lines={}, sightings=(), packets=())
    return [
        (replace(evidence, recorded=recorded), passport, verdict) for evidence, passport, verdict in judged
    ]


def _is_plain(item: Item) -> bool:
    scenario = item.scenario
    return scenario.run is None and not scenario.given and scenario.load is None
