"""Findings add up to a verdict: broken outweighs unknown, unknown outweighs held, nothing at all is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judged_flows import BLUE, RED, ROUND, joined, recorded, told, without

from harness.evidence import Evidence, Finding, State
from harness.scenario import Allowed, Denied, Expect
from harness.verdict import Verdict, conclude, judge, outcome_of


def finding(state: State, at: str = "hop") -> Finding:
    """Return a finding of a state."""
    return Finding("check", state, at, "this", "that")


def verdict_on(evidence: Evidence) -> Verdict:
    """Join and judge an attempt."""
    return judge(evidence, joined(evidence))


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((), "unknown"),
        (("held",), "held"),
        (("held", "held"), "held"),
        (("held", "unknown"), "unknown"),
        (("unknown", "broken"), "broken"),
        (("broken", "held"), "broken"),
        (("held", "unknown", "broken", "held"), "broken"),
    ],
)
def test_precedence(states: tuple[State, ...], verdict: State) -> None:
    """What was positively seen weighs most, missing evidence next; without any finding nothing is proven."""
    assert conclude([finding(state) for state in states]).state == verdict


def test_reasons_are_the_findings_that_decided() -> None:
    """A verdict's reasons are those of its own state, and its text names each with its hop."""
    verdict = conclude(
        [finding("held", "a"), finding("unknown", "b"), finding("broken", "c"), finding("broken", "d")]
    )
    assert [reason.at for reason in verdict.reasons] == ["c", "d"]
    assert str(verdict) == "broken: at c: expected this; seen: that; at d: expected this; seen: that"
    assert str(conclude([finding("held")])) == "held"


@pytest.mark.parametrize("scenario", [RED, BLUE, ROUND])
def test_the_flows_as_they_should_be(scenario: str) -> None:
    """Each scenario holds on the flow that it describes."""
    assert str(verdict_on(told(scenario))) == "held"


@pytest.mark.parametrize("hop", ["bigip", "firewall", "tinyproxy"])
@pytest.mark.parametrize("scenario", [BLUE, RED])
def test_no_denial_is_held_without_sight(scenario: str, hop: str) -> None:
    """Lost evidence or a blind tap at any hop that the scenario names leaves it unknown."""
    for gap in ({"lost": {f"{hop} frames": "lost"}}, {"blind": (f"{hop}.internet",)}):
        assert verdict_on(recorded(told(scenario), **gap)).state == "unknown"


def test_a_loss_elsewhere_does_not_matter() -> None:
    """Evidence lost at a hop that the scenario does not speak of is no reason to doubt it."""
    assert verdict_on(recorded(told(BLUE), lost={"site.example frames": "lost"})).state == "held"


def test_a_loss_at_the_source_matters_always() -> None:
    """What the recorder as a whole lost may have been about any hop."""
    assert verdict_on(recorded(told(BLUE), lost={"source": "the recorder stalled"})).state == "unknown"


def test_a_clock_that_was_set_makes_all_unknown() -> None:
    """Witnesses are joined by time, so that a step of the clock undoes what was seen, a broken flow included."""
    broken = recorded(told(BLUE), ended={"tinyproxy tinyproxy": 1})
    assert verdict_on(broken).state == "broken"
    verdict = verdict_on(
        recorded(told(BLUE), ended={"tinyproxy tinyproxy": 1}, lost={"clock": "set by +250.0 ms"})
    )
    assert str(verdict) == "unknown: at the lab: expected one clock for all witnesses; seen: set by +250.0 ms"


def test_a_sidecars_loss_is_its_pods() -> None:
    """A path's `sidecar` is in the client's pod: what that pod's records lost makes it unknown."""
    assert verdict_on(recorded(told(RED), lost={"red/client sidecar": "lines"})).state == "unknown"


@pytest.mark.parametrize(("code", "how"), [(3, "exit status 3"), (-9, "signal 9"), (0, "exit status 0")])
def test_a_program_that_ended_breaks_the_lab(code: int, how: str) -> None:
    """A program of the lab that is not running any more is broken, whatever the flow shows, at its node."""
    verdict = verdict_on(recorded(told(BLUE), ended={"bigip egress-proxy": code}))
    assert verdict.state == "broken"
    assert [(reason.at, reason.expected, reason.seen) for reason in verdict.reasons] == [
        ("bigip", "egress-proxy runs", f"it ended with {how}")
    ]


def test_what_nobody_finished_saying_is_unknown() -> None:
    """A hop whose last word about the flow did not come in time may yet say something else."""
    verdict = verdict_on(replace(told(BLUE), unfinished=(("bigip", "its log of the end"),)))
    assert verdict.state == "unknown"
    assert ("bigip", "its log of the end") in [(reason.at, reason.expected) for reason in verdict.reasons]


def test_silent_logs_are_unknown() -> None:
    """A proxy that logs nothing of the flow proves neither that it permitted nor that it denied."""
    for scenario in (RED, BLUE):
        assert verdict_on(without(told(scenario), at="bigip", witness="log")).state == "unknown"


def test_a_denials_source_is_at_its_own_hop() -> None:
    """`source` without `at` under a denial is about the hop that denied."""
    found = [one for one in verdict_on(told(ROUND)).findings if one.check == "source"]
    assert [one.at for one in found] == ["firewall"]


def test_every_field_of_an_outcome_is_judged() -> None:
    """Each part that a scenario writes down has its findings; what it leaves out has none."""
    assert {one.check for one in verdict_on(told(RED)).findings} == {
        "path",
        "allowed",
        "client",
        "identity",
        "source",
        "packets",
    }
    assert {one.check for one in verdict_on(told(BLUE)).findings} == {
        "denied",
        "rejected",
        "client",
        "identity",
        "unseen_by",
    }


def test_the_one_outcome() -> None:
    """A scenario's outcome is found with its word."""
    allowed, denied = Allowed(), Denied(at="any")
    assert outcome_of(Expect(allowed=allowed)) == ("allowed", allowed)
    assert outcome_of(Expect(dropped=denied)) == ("dropped", denied)
    with pytest.raises(ValueError, match="exactly one outcome"):
        outcome_of(Expect.model_construct())
