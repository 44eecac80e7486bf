"""`split`: how the flows of a load were divided among pods, by the log of each pod, against the stated shares.

Each arm's count is judged by an exact two-sided binomial test at the stated confidence (harness/binomial.py); of two
arms the tests are the same test. With `then`, the weights change during the load: a gateway's log says of each request
which routes decided it, so that each flow is judged by the shares that were in force for it, and no request may be
decided by the old routes once one was decided by the new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.binomial import p_value, plausible
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Split

Observed = Sequence[tuple[Evidence, Passport]]


@dataclass(frozen=True)
class Served:
    """One flow: the pod that served it, and the routes that decided it, where a gateway logged them, and when (ns)."""

    pod: str
    at: str
    routes: str
    time: int


def judge_all(expected: Split, observed: Observed) -> Iterator[Finding]:
    """Yield a finding for each flow that no pod served, and one for each arm of each phase."""
    arms = set(expected.over) | set(expected.then)
    served: list[Served] = []
    missing = False
    for evidence, passport in observed:
        pods = {sighting.at for sighting in passport.sightings if sighting.witness == "log"} & arms
        if len(pods) == 1:
            served.append(_served(pods.pop(), passport))
        else:
            lost = _lost(sorted(pods), arms, evidence, passport)
            missing = missing or lost.state == "unknown"
            yield lost
    if not expected.then:
        yield from _arms(expected.over, served, expected.confidence, "")
        return
    served.sort(key=lambda flow: flow.time)
    tables = list(dict.fromkeys(flow.routes for flow in served))
    if len(tables) != 2 or "" in tables:
        at = served[0].at if served else "any"
        seen = f"{len(tables)}: {', '.join(table or 'in no log' for table in tables) or 'none'}"
        state: State = "unknown" if missing or "" in tables else "broken"
        yield Finding("split", state, at, "two sets of routes, one after the other", seen)
        return
    before = [flow for flow in served if flow.routes == tables[0]]
    after = [flow for flow in served if flow.routes == tables[1]]
    yield _order(before, after, observed[0][0].attempt.started)
    yield from _arms(expected.over, before, expected.confidence, " before the change")
    yield from _arms(expected.then, after, expected.confidence, " after the change")


def _served(pod: str, passport: Passport) -> Served:
    for sighting in passport.sightings:
        if sighting.facts.get("routes"):
            return Served(pod, sighting.at, sighting.facts["routes"], sighting.time)
    return Served(pod, pod, "", 0)


def _lost(pods: Sequence[str], arms: set[str], evidence: Evidence, passport: Passport) -> Finding:
    wanted = "exactly one pod's log has the flow"
    if pods:
        return Finding("split", "broken", pods[0], wanted, f"those of {' and '.join(pods)}")
    last = passport.hops()[-1] if passport.hops() else "nowhere"
    for arm in sorted(arms):
        gap = evidence.gap(arm)
        if gap is not None:
            return Finding("split", "unknown", arm, wanted, f"none, and {gap}")
    return Finding("split", "broken", last, wanted, f"none; last seen at {last}")


def _order(before: Sequence[Served], after: Sequence[Served], begun: int) -> Finding:
    wanted = "from the first request on that the new routes decided, no other decides"
    first = after[0]
    late = [flow for flow in before if flow.time > first.time]
    if late:
        seen = f"{len(late)} by the old routes later, the last {_ms(late[-1].time - first.time)} later"
        return Finding("split", "broken", late[0].at, wanted, seen)
    seen = (
        f"in force {_ms(first.time - begun)} into the load: {len(before)} before, {len(after)} from then on"
    )
    return Finding("split", "held", first.at, wanted, seen)


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms"


def _arms(
    shares: Mapping[str, int], served: Sequence[Served], confidence: float, when: str
) -> Iterator[Finding]:
    flows = len(served)
    for pod, percent in shares.items():
        count = sum(flow.pod == pod for flow in served)
        held = plausible(flows, percent / 100, confidence)
        bounds = f"{held.start} to {held[-1]} at a confidence of {100 * confidence:g} %"
        wanted = f"{percent} % of {flows} flows{when}: {bounds}"
        seen = f"{count} flows, p-value {p_value(count, flows, percent / 100):.3g}"
        state: State = "unknown" if not flows else "held" if count in held else "broken"
        yield Finding("split", state, pod, wanted, seen)
    for pod in sorted({flow.pod for flow in served} - set(shares)):
        seen = f"{sum(flow.pod == pod for flow in served)} flows"
        yield Finding("split", "broken", pod, f"none of {flows} flows{when}", seen)
