"""`client`: the client's exit status, and words that it printed."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Client


def judge(expected: Client, evidence: Evidence, passport: Passport) -> Iterator[Finding]:  # noqa: ARG001 - every check's form
    """Yield a finding for the status and one for each text."""
    attempt = evidence.attempt
    if expected.exit is not None:
        code = attempt.command.code if attempt.command else None
        state: State = "unknown" if code is None else "held" if code == expected.exit else "broken"
        seen = "no exit status: the command ran out of time" if code is None else f"exit status {code}"
        yield Finding("client", state, attempt.pod, f"exit status {expected.exit}", seen)
    for words in expected.shows:
        state = "held" if words in attempt.text else "broken"
        seen = words if state == "held" else repr(attempt.text.strip()[-300:])
        yield Finding("client", state, attempt.pod, f"the client shows {words!r}", seen)
