"""A failure in words: what was expected and seen at which hop, then the way that the flow took."""

from __future__ import annotations

from dataclasses import replace

from judged_flows import BLUE, RED, ROUND, joined, story, told, without
from recorded_flows import BEGUN, behind_proxy

from harness.evidence import Evidence, Sighting
from harness.explain import arrow, describe, failure_lines, passport_lines
from harness.programs.fivetuple import TCP, FiveTuple
from harness.run import Result
from harness.verdict import judge

FLOW = FiveTuple(TCP, "10.0.0.1", 1, "10.0.0.2", 2)


def result_of(evidence: Evidence) -> Result:
    """Return an attempt's result."""
    passport = joined(evidence)
    return Result(evidence.attempt.item, judge(evidence, passport), evidence, passport, 0.1)


def test_a_failure_names_hop_expectation_and_what_was_seen() -> None:
    """Each reason is two lines, then the place in the scenario file, then the passport."""
    lines = list(failure_lines(result_of(without(told(RED), at="firewall"))))
    assert lines[0] == "firewall: path: expected the flow passes here"
    assert lines[1].startswith("    seen: nothing; last seen at ")
    place = next(line for line in lines if line.startswith("in "))
    assert place.endswith("scenarios.yaml:3")
    assert lines[lines.index(place) + 1] == "passport:"


def test_a_passport_is_told_in_milliseconds_since_the_attempt_began() -> None:
    """Each line has its time, its place in a column, its witness and the flow."""
    lines = list(passport_lines(result_of(told(ROUND))))
    assert lines[1].startswith("      0.10 ms  blue/client  tap       opening    10.53.")
    assert lines[1].endswith(" out of blue/client.eth0")
    assert lines[-1].split()[2:5] == ["firewall", "nflog", "drop"]
    assert lines[-1].endswith("rule=default")


def test_strays_and_doubts_are_told_too() -> None:
    """What nobody accounts for and what cannot be told apart stand below the passport."""
    result = result_of(told(BLUE))
    assert result.passport is not None
    stray = Sighting(
        "firewall", "tap", "opening", BEGUN, FLOW, None, {"tap": "firewall.dmz", "outgoing": "false"}
    )
    doubtful = replace(result, passport=replace(result.passport, strays=(stray,), ambiguous=("two flows",)))
    lines = list(passport_lines(doubtful))
    assert lines[-2].startswith("  unaccounted for: firewall  tap")
    assert lines[-1] == "  cannot be told apart: two flows"


def test_without_an_attempt_there_is_no_passport() -> None:
    """A scenario whose control failed was not tried: it says why, and where it is written."""
    result = replace(result_of(told(BLUE)), evidence=None, passport=None)
    assert list(passport_lines(result)) == []
    assert [line for line in failure_lines(result) if line.startswith("in ")]


def test_a_sighting_says_what_matters() -> None:
    """Flow, onward flow where it differs, and the facts that tell something; empty ones and others are left out."""
    sighting = Sighting(
        "bigip",
        "log",
        "decision",
        0,
        FLOW,
        FLOW,
        {"verdict": "REJECTED", "by": "p", "reason": "", "conn": "7"},
    )
    assert describe(sighting) == "log       decision   10.0.0.1:1 > 10.0.0.2:2 verdict=REJECTED by=p"
    onward = replace(sighting, onward=FLOW.inverse(), facts={})
    assert describe(onward) == "log       decision   10.0.0.1:1 > 10.0.0.2:2 => 10.0.0.2:2 > 10.0.0.1:1"
    assert describe(replace(sighting, flow=None, onward=None, facts={})) == "log       decision  "


def test_a_flow_without_ports_shows_what_is_known() -> None:
    """Of tinyproxy's flows only the client's address is known."""
    assert arrow(FiveTuple(TCP, "10.0.0.1", 0, "", 0)) == "10.0.0.1"
    assert arrow(FLOW) == "10.0.0.1:1 > 10.0.0.2:2"


def test_a_tap_says_its_direction() -> None:
    """A frame went into a tap's node or out of it."""
    facts = {"tap": "a.dmz", "outgoing": "true"}
    assert describe(Sighting("a", "tap", "opening", 0, FLOW, None, facts)).endswith("out of a.dmz")
    facts["outgoing"] = "false"
    assert describe(Sighting("a", "tap", "opening", 0, FLOW, None, facts)).endswith("into a.dmz")


def test_any_recorded_flow_can_be_told() -> None:
    """Whatever was recorded, the lines are texts on one line each."""
    paper = story()
    behind_proxy(paper)
    for scenario in (RED, BLUE, ROUND):
        for line in failure_lines(result_of(told(scenario))):
            assert "\n" not in line
