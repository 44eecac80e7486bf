"""`unseen_by`: the hops behind the denying one saw nothing of the flow, and could have seen it."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence import Evidence, Finding, Sighting
from harness.passport import Passport


def judge(expected: tuple[str, ...], evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for each hop; a flow that no record accounts for counts against the denial."""
    wanted = "nothing of this flow"
    for hop in expected:
        seen = passport.at(hop)
        strays = passport.strays_at(hop)
        gap = evidence.gap(hop)
        if seen:
            yield Finding("unseen_by", "broken", hop, wanted, describe(seen[0]))
        elif strays:
            yield Finding(
                "unseen_by", "broken", hop, wanted, f"{describe(strays[0])}, which no record accounts for"
            )
        elif gap is not None:
            yield Finding("unseen_by", "unknown", hop, wanted, f"nothing, and {gap}")
        else:
            yield Finding("unseen_by", "held", hop, wanted, "nothing")


def describe(sighting: Sighting) -> str:
    """Say what a witness saw, in one line."""
    flow = sighting.flow
    between = f" {flow.src}:{flow.sport} > {flow.dst}:{flow.dport}" if flow else ""
    rule = f" by {sighting.facts['rule']!r}" if sighting.facts.get("rule") else ""
    return f"{sighting.witness}: {sighting.event}{between}{rule}"
