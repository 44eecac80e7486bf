"""`identity`: the SPIFFE ID of the peer that a hop verified, from its own log of this flow."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Identity


def judge(expected: Identity, evidence: Evidence, passport: Passport) -> Iterator[Finding]:  # noqa: ARG001 - every check's form
    """Yield one finding; a hop whose log names no identity for the flow is unknown."""
    seen = sorted({s.facts["identity"] for s in passport.at(expected.at) if s.facts.get("identity")})
    if not seen:
        yield Finding(
            "identity", "unknown", expected.at, expected.is_, "no identity in its log for this flow"
        )
        return
    state: State = "held" if seen == [expected.is_] else "broken"
    yield Finding("identity", state, expected.at, expected.is_, ", ".join(seen))
