"""`dropped`: the hop decided against the flow, by this rule, and kept silent on the wire."""

from __future__ import annotations

from collections.abc import Iterator

from harness.denial import Answer, answer_of, judge_decision
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Denied


def judge(expected: Denied, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for the decision and one for the silence; a client's time-out alone proves neither."""
    yield from judge_decision(expected, evidence, passport)
    if expected.at != "any":
        answer = answer_of(expected.at, evidence, passport)
        state: State = "held" if answer is Answer.NONE else "broken"
        yield Finding("dropped", state, expected.at, "silence towards the client", answer.value)
