"""The check `split`: counts by the pods' own logs, judged by chance; changed weights; requests that nobody served."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest
from judged_flows import RED, recorded, told

from harness.checks.split import judge_all
from harness.evidence import Evidence, Sighting
from harness.passport import Passport
from harness.scenario import Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GATEWAY, OLD, NEW = "edge/gateway", "shop v1=80,v2=20", "shop v1=0,v2=100"
V1, V2 = "red/shop-v1", "red/shop-v2"
STATED = Split(over={V1: 80, V2: 20})
CHANGED = Split(over={V1: 80, V2: 20}, then={V1: 0, V2: 100})

Judged = tuple[Evidence, Passport]


@pytest.fixture
def evidence() -> Evidence:
    """Return evidence from which nothing is missing."""
    return told(RED)


def flow(evidence: Evidence, pods: Sequence[str], time: int = 0, routes: str = OLD) -> Judged:
    """Return a flow that a gateway decided and that these pods logged."""
    at = evidence.attempt.started + time * 1_000_000
    by_gateway = Sighting(GATEWAY, "log", "request", at, facts={"routes": routes})
    served = [Sighting(pod, "log", "request", at + 1) for pod in pods]
    return evidence, Passport("visitor", frozenset(), (by_gateway, *served), (), ())


def flows(evidence: Evidence, *parts: tuple[int, str, str]) -> list[Judged]:
    """Return flows one after the other: so many, served by this pod, decided by these routes."""
    clock: Iterator[int] = count()
    return [
        flow(evidence, [pod], next(clock), routes) for number, pod, routes in parts for _ in range(number)
    ]


def states(expected: Split, judged: list[Judged]) -> list[tuple[str, str]]:
    """Return hop and state of each finding."""
    return [(finding.at, finding.state) for finding in judge_all(expected, judged)]


def test_a_split_as_stated_holds(evidence: Evidence) -> None:
    """Counts near the stated shares hold; the finding says what would hold, the count, and how likely it is."""
    findings = list(judge_all(STATED, flows(evidence, (78, V1, OLD), (22, V2, OLD))))
    assert [(finding.check, finding.at, finding.state) for finding in findings] == [
        ("split", V1, "held"),
        ("split", V2, "held"),
    ]
    assert findings[0].expected == "80 % of 100 flows: 66 to 92 at a confidence of 99.9 %"
    assert findings[0].seen == "78 flows, p-value 0.617"


@pytest.mark.parametrize(
    ("first", "state"),
    [(92, "held"), (66, "held"), (93, "broken"), (65, "broken"), (20, "broken"), (50, "broken")],
)
def test_the_bounds_are_those_of_the_test(evidence: Evidence, first: int, state: str) -> None:
    """One flow beyond what chance explains breaks both arms; so do swapped shares and even ones."""
    found = states(STATED, flows(evidence, (first, V1, OLD), (100 - first, V2, OLD)))
    assert found == [(V1, state), (V2, state)]


def test_the_confidence_is_the_scenarios(evidence: Evidence) -> None:
    """What is implausible at 90 % may be plausible at 99.9 %."""
    judged = flows(evidence, (70, V1, OLD), (30, V2, OLD))
    assert states(STATED, judged) == [(V1, "held"), (V2, "held")]
    strict = STATED.model_copy(update={"confidence": 0.9})
    assert states(strict, judged) == [(V1, "broken"), (V2, "broken")]


def test_a_flow_that_no_pod_logged_is_lost(evidence: Evidence) -> None:
    """It is broken at the hop that saw it last, and does not count as another pod's."""
    judged = [*flows(evidence, (80, V1, OLD), (20, V2, OLD)), flow(evidence, [])]
    findings = list(judge_all(STATED, judged))
    assert [(finding.at, finding.state) for finding in findings] == [
        (GATEWAY, "broken"),
        (V1, "held"),
        (V2, "held"),
    ]
    assert findings[0].seen == "none; last seen at edge/gateway"


def test_a_flow_whose_evidence_is_lost_is_unknown(evidence: Evidence) -> None:
    """A pod whose records are incomplete may have served what is in no log."""
    gappy = recorded(evidence, lost={f"{V1} lines": "the pipe overflowed"})
    findings = list(judge_all(STATED, [*flows(evidence, (80, V1, OLD), (20, V2, OLD)), flow(gappy, [])]))
    assert (findings[0].at, findings[0].state) == (V1, "unknown")
    assert "the pipe overflowed" in findings[0].seen


def test_a_flow_that_two_pods_served_is_broken(evidence: Evidence) -> None:
    """One request is one flow: two logs of it are a defect, whatever the counts."""
    findings = list(judge_all(STATED, [flow(evidence, [V1, V2])]))
    assert (findings[0].state, findings[0].seen) == ("broken", f"those of {V1} and {V2}")


def test_without_any_flow_nothing_is_known(evidence: Evidence) -> None:
    """No served flow is no evidence of a split."""
    assert states(STATED, [flow(evidence, [])]) == [(GATEWAY, "broken"), (V1, "unknown"), (V2, "unknown")]


def test_changed_weights_are_judged_from_their_first_request_on(evidence: Evidence) -> None:
    """Flows that the old routes decided have the old shares, those of the new the new; a finding says since when."""
    findings = list(judge_all(CHANGED, flows(evidence, (79, V1, OLD), (21, V2, OLD), (200, V2, NEW))))
    assert [(finding.at, finding.state) for finding in findings] == [
        (GATEWAY, "held"),
        (V1, "held"),
        (V2, "held"),
        (V1, "held"),
        (V2, "held"),
    ]
    assert findings[0].seen == "in force 100.0 ms into the load: 100 before, 200 from then on"
    assert findings[3].expected == "0 % of 200 flows after the change: 0 to 0 at a confidence of 99.9 %"


def test_a_change_that_never_comes_into_force_is_broken(evidence: Evidence) -> None:
    """Only one set of routes was seen, however well the flows were divided."""
    findings = list(judge_all(CHANGED, flows(evidence, (80, V1, OLD), (20, V2, OLD))))
    assert [(finding.at, finding.state) for finding in findings] == [(GATEWAY, "broken")]
    assert findings[0].seen == f"1: {OLD}"


def test_a_change_of_which_the_log_is_missing_is_unknown(evidence: Evidence) -> None:
    """Requests that no gateway's log says the routes of may have been decided by any."""
    logged = flows(evidence, (80, V1, OLD), (20, V2, OLD))
    unlogged = [
        (seen, replace(passport, sightings=passport.sightings[1:]))
        for seen, passport in flows(evidence, (100, V2, NEW))
    ]
    findings = list(judge_all(CHANGED, [*logged, *unlogged]))
    assert [(finding.at, finding.state) for finding in findings] == [(V2, "unknown")]
    gappy = recorded(evidence, lost={f"{V1} lines": "the pipe overflowed"})
    assert {finding.state for finding in judge_all(CHANGED, [*logged, flow(gappy, [])])} == {"unknown"}


def test_old_routes_that_come_back_are_broken(evidence: Evidence) -> None:
    """Once the new routes decided a request, one that the old decided later shows two tables at work."""
    judged = flows(evidence, (80, V1, OLD), (20, V2, OLD), (100, V2, NEW), (1, V1, OLD))
    findings = list(judge_all(CHANGED, judged))
    assert (findings[0].at, findings[0].state) == (GATEWAY, "broken")
    assert findings[0].seen == "1 by the old routes later, the last 100.0 ms later"


def test_new_weights_that_do_not_divide_so_are_broken(evidence: Evidence) -> None:
    """Routes that say one thing and do another are noticed by the pods' logs."""
    judged = flows(evidence, (80, V1, OLD), (20, V2, OLD), (160, V1, NEW), (40, V2, NEW))
    assert states(CHANGED, judged)[-2:] == [(V1, "broken"), (V2, "broken")]


def test_a_pod_that_is_no_arm_any_more_must_get_nothing(evidence: Evidence) -> None:
    """A pod that only the other phase names is a finding where it served in this one."""
    expected = Split(over={V1: 50, V2: 50}, then={V2: 50, "red/shop-v3": 50})
    judged = flows(
        evidence, (100, V1, OLD), (100, V2, OLD), (90, V2, NEW), (90, "red/shop-v3", NEW), (1, V1, NEW)
    )
    assert (V1, "broken") in states(expected, judged)[-1:]
