"""The check `certificate`: what a hop's log says of a peer's certificate, for one flow and for a load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judged_flows import RED, told

from harness.checks.certificate import judge, judge_all
from harness.evidence import Evidence, Finding, Sighting
from harness.passport import Passport
from harness.scenario import Certificate, Step

HOP, POD = "bigip", "red/client"
FIRST, SECOND, STRANGE = "a" * 64, "b" * 64, "c" * 64
ROTATED = Certificate.model_validate({"at": HOP, "is": "rotated"})
MILLISECOND = 1_000_000

Judged = tuple[Evidence, Passport]


@pytest.fixture
def evidence() -> Evidence:
    """Return evidence of a lab in which a pod had a certificate before the one that is in use."""
    return replace(told(RED), issued={POD: (FIRST, SECOND), "red/other": (STRANGE[:-1] + "d",)})


def flow(evidence: Evidence, at: float, *fingerprints: str, lasts: float = 1) -> Judged:
    """Return a flow that began `at` ms, `lasts` ms long, half-way of which the hop logged these certificates."""
    began = evidence.attempt.started + round(at * MILLISECOND)
    ended = began + round(lasts * MILLISECOND)
    attempt = replace(evidence.attempt, started=began, ended=ended)
    seen = [
        Sighting(HOP, "log", "decision", (began + ended) // 2, facts={"certificate": one})
        for one in fingerprints
    ]
    return replace(evidence, attempt=attempt), Passport(POD, frozenset(), tuple(seen), (), ())


def during(evidence: Evidence) -> Evidence:
    """Return the evidence as one of a load in which certificates change."""
    item = evidence.attempt.item
    scenario = item.scenario.model_copy(update={"during": (Step(rotate=POD),)})
    return replace(
        evidence,
        attempt=replace(evidence.attempt, item=item.model_copy(update={"scenario": scenario})),
    )


def one(findings: list[Finding]) -> Finding:
    """Return the only finding."""
    (found,) = findings
    return found


@pytest.mark.parametrize(
    ("fingerprints", "states"),
    [
        ((SECOND,), ["held"]),
        ((FIRST,), ["broken"]),
        ((STRANGE,), ["broken"]),
        ((FIRST, SECOND), ["broken", "held"]),
        ((STRANGE[:-1] + "d",), ["broken"]),
        ((), ["unknown"]),
    ],
    ids=["in-use", "before", "of-nobody", "both", "never-replaced", "not-logged"],
)
def test_one_flow(evidence: Evidence, fingerprints: tuple[str, ...], states: list[str]) -> None:
    """Held is the certificate in use, in the place of another; without one in the log nothing is known."""
    found = list(judge(ROTATED, *flow(evidence, 0, *fingerprints)))
    assert [finding.state for finding in found] == states


def test_a_finding_says_whose_certificate_it_was(evidence: Evidence) -> None:
    """Holder, the how manieth, of how many, and the beginning of the fingerprint."""
    found = one(list(judge(ROTATED, *flow(evidence, 0, FIRST))))
    assert found.seen == f"certificate 1 of 2 of {POD} ({FIRST[:12]}...)"
    found = one(list(judge(ROTATED, *flow(evidence, 0, STRANGE))))
    assert "issued to nobody here" in found.seen


def test_a_change_during_a_load_is_for_all_of_its_flows(evidence: Evidence) -> None:
    """No flow of such a load is judged by itself, and no other scenario's flows are judged together."""
    assert list(judge(ROTATED, *flow(during(evidence), 0, FIRST))) == []
    assert list(judge_all(ROTATED, [flow(evidence, 0, FIRST)])) == []


def test_one_after_the_other_holds_with_the_times(evidence: Evidence) -> None:
    """The last flow with the former and the first with the latter are told with their times in the hop's log."""
    load = during(evidence)
    found = one(
        list(
            judge_all(
                ROTATED,
                [flow(load, 0, FIRST), flow(load, 10, FIRST), flow(load, 20, SECOND), flow(load, 30, SECOND)],
            )
        )
    )
    assert (found.check, found.at, found.state) == ("certificate", HOP, "held")
    assert f"certificate 1 of 2 of {POD} ({FIRST[:12]}...) in 2 flows, the last at " in found.seen
    assert "(0.011 s in)" in found.seen.partition(";")[0]
    assert "(0.021 s in)" in found.seen.partition(";")[2]


def test_flows_at_the_same_time_may_show_either(evidence: Evidence) -> None:
    """A flow that began before one with the new certificate was over may still show the former."""
    load = during(evidence)
    found = one(
        list(
            judge_all(
                ROTATED,
                [flow(load, 0, FIRST), flow(load, 10, SECOND, lasts=10), flow(load, 15, FIRST, lasts=10)],
            )
        )
    )
    assert found.state == "held"


def test_a_flow_by_an_older_connection_may_show_the_former(evidence: Evidence) -> None:
    """What counts is when the hop first saw the connection: it may have been opened for a flow before this one."""
    load = during(evidence)
    late, passport = flow(load, 15, FIRST)
    older = Sighting(HOP, "tap", "opening", late.attempt.started - 13 * MILLISECOND)
    passport = replace(passport, sightings=(older, *passport.sightings))
    found = one(list(judge_all(ROTATED, [flow(load, 0, FIRST), flow(load, 4, SECOND), (late, passport)])))
    assert found.state == "held"


@pytest.mark.parametrize(
    ("shown", "state", "says"),
    [
        ((FIRST, FIRST), "broken", "in all 2 flows"),
        ((SECOND, SECOND), "unknown", "in all 2 flows"),
        ((FIRST, SECOND, FIRST), "broken", "1 of the former began when one of the latter was over"),
        ((FIRST, STRANGE, SECOND), "broken", "issued to nobody here"),
        ((FIRST, "", SECOND), "unknown", "no certificate in its log of 1 of 3 flows"),
        ((STRANGE[:-1] + "d",) * 2, "broken", "certificate 1 of 1 of red/other"),
    ],
    ids=["never-changed", "changed-before", "back-again", "of-nobody", "not-logged", "never-replaced"],
)
def test_what_does_not_hold(evidence: Evidence, shown: tuple[str, ...], state: str, says: str) -> None:
    """A change that did nothing, or went back, is broken; what was not seen is unknown."""
    load = during(evidence)
    flows = [flow(load, 10 * number, *filter(None, (word,))) for number, word in enumerate(shown)]
    found = one(list(judge_all(ROTATED, flows)))
    assert found.state == state
    assert says in found.seen
