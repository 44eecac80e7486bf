"""`identity`: the SPIFFE ID of the peer that a hop verified, from its own log of this flow."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Identity


def judge(expected: tuple[Identity, ...], evidence: Evidence, passport: Passport) -> Iterator[Finding]:  # noqa: ARG001 - every check's form
    """Yield a finding for each hop; one whose log names no identity for the flow is unknown."""
    for entry in expected:
        seen = sorted({s.facts["identity"] for s in passport.at(entry.at) if s.facts.get("identity")})
        if not seen:
            wanted = "no identity in its log for this flow"
            yield Finding("identity", "unknown", entry.at, entry.is_, wanted)
            continue
        state: State = "held" if seen == [entry.is_] else "broken"
        yield Finding("identity", state, entry.at, entry.is_, ", ".join(seen))
