"""`rejected`: the hop decided against the flow, by this rule, and answered the client's side on the wire."""

from __future__ import annotations

from collections.abc import Iterator

from harness.denial import judge_answer, judge_decision
from harness.evidence import Evidence, Finding
from harness.passport import Passport
from harness.scenario import Denied


def judge(expected: Denied, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for the decision and one for the answer."""
    yield from judge_decision(expected, evidence, passport)
    if expected.at != "any":
        yield judge_answer("rejected", expected.at, evidence, passport)
