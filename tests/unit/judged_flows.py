"""Evidence of flows told on paper, joined and ready to be judged; any part of it can be exchanged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from recorded_flows import Story, allowed, dropped, rejected
from small_tenants import SCENARIOS, plan_of, written_once

from harness import lookup
from harness.drivers import fake
from harness.evidence import Attempt, CommandResult, Evidence, Finding
from harness.passport import Passport, join
from harness.sightings import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.drivers.fake import Recording
    from harness.plan import Bindings, Plan

RED, BLUE, ROUND = "red is let out", "blue is reset", "nobody goes round the proxy"
_WORDS = {RED: allowed, BLUE: rejected, ROUND: dropped}


@cache
def lab() -> tuple[Plan, Bindings]:
    """Return the small lab's plan and the fake's addresses."""
    plan = plan_of()
    return plan, fake.binding(plan)


def story() -> Story:
    """Begin a flow in the small lab."""
    return Story(*lab())


def evidence_of(recording: Recording, scenario: str, scenarios: str = SCENARIOS) -> Evidence:
    """Return a recording as the evidence of a scenario's attempt."""
    plan, bindings = lab()
    before = {node: dict.fromkeys(named, (0, 0)) for node, named in recording.counted.items()}
    recorded = digest(recording.raw, plan, before, recording.counted, recording.blind)
    item = written_once(scenarios)[scenario]
    attempt = Attempt(
        item, recording.pod, recording.started, recording.ended, recording.command, recording.outcome
    )
    return Evidence(plan, bindings, attempt, recorded)


def told(scenario: str, edit: Callable[[Recording], Recording] = lambda recording: recording) -> Evidence:
    """Return the evidence of the flow that fits a scenario, its recording edited before."""
    return evidence_of(edit(_WORDS[scenario](story())), scenario)


def joined(evidence: Evidence) -> Passport:
    """Return the passport of an attempt's evidence."""
    return join(evidence.attempt, evidence.recorded, evidence.plan, evidence.bindings)


def without(evidence: Evidence, **facts: Any) -> Evidence:
    """Return evidence as if sightings with these fields had never been recorded."""
    kept = tuple(
        sighting
        for sighting in evidence.recorded.sightings
        if any(getattr(sighting, key) != value for key, value in facts.items())
    )
    return replace(evidence, recorded=replace(evidence.recorded, sightings=kept))


def recorded(evidence: Evidence, **fields: Any) -> Evidence:
    """Return evidence with other recordings."""
    return replace(evidence, recorded=replace(evidence.recorded, **fields))


def states(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Return findings as (check, hop, state)."""
    return [(finding.check, finding.at, finding.state) for finding in findings]


def judged(check: str, expected: Any, evidence: Evidence) -> list[Finding]:
    """Return what a check finds."""
    return list(lookup.find("checks", check).judge(expected, evidence, joined(evidence)))


def printing(recording: Recording, text: str, *, code: int | None = 0) -> Recording:
    """Return a recording whose command printed something else and ended otherwise."""
    return replace(recording, command=CommandResult(("curl",), code, text, ""))


def the(found: list[Finding]) -> tuple[str, str]:
    """Return state and seen of the only finding."""
    (finding,) = found
    return finding.state, finding.seen
