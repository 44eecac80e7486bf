"""`rejected`: the hop decided against the flow, by this rule, and answered the client's side on the wire."""

from __future__ import annotations

from collections.abc import Iterator

from harness.denial import Answer, answer_of, judge_decision
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Denied


def judge(expected: Denied, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for the decision and one for the answer."""
    yield from judge_decision(expected, evidence, passport)
    if expected.at != "any":
        answer = answer_of(expected.at, evidence, passport)
        wanted = "an answer towards the client (RST, ICMP, TLS alert or FIN)"
        gap = evidence.gap(expected.at)
        if answer is Answer.NONE and gap is not None:
            yield Finding("rejected", "unknown", expected.at, wanted, f"none, and {gap}")
            return
        state: State = "broken" if answer is Answer.NONE else "held"
        yield Finding("rejected", state, expected.at, wanted, answer.value)
