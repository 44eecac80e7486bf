"""held, broken or unknown: the findings of every check of a scenario, and what follows from them.

Broken outweighs unknown (something was positively seen that must not be), unknown outweighs held (evidence that is
missing proves nothing). Where the machine's clock was set meanwhile, nobody knows the order of things,
and nothing else counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import lookup
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Allowed, Denied, Expect, Outcome

_FIELDS = (
    "client",
    "identity",
    "certificate",
    "source",
    "mtls_mode",
    "packets",
    "routes",
    "unseen_by",
    "split",
)


@dataclass(frozen=True)
class Verdict:
    """The state with its reasons."""

    state: State
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """The findings that made the state what it is."""
        return tuple(finding for finding in self.findings if finding.state == self.state)

    def __str__(self) -> str:
        if self.state == "held":
            return "held"
        return f"{self.state}: " + "; ".join(str(finding) for finding in self.reasons)


def outcome_of(expect: Expect) -> tuple[str, Allowed | Denied]:
    """Return the word and the content of the one outcome that a scenario expects."""
    for word in ("allowed", "rejected", "dropped"):
        outcome: Allowed | Denied | None = getattr(expect, word)
        if outcome is not None:
            return word, outcome
    raise ValueError("a scenario expects exactly one outcome")


def judge(evidence: Evidence, passport: Passport) -> Verdict:
    """Return the verdict on an attempt."""
    word, outcome = outcome_of(evidence.attempt.item.scenario.expect)
    findings = [*_lab_is_well(evidence), *_evidence_is_whole(outcome, evidence), *_flow_is_over(evidence)]
    findings += lookup.find("checks", word).judge(outcome, evidence, passport)
    for field in _FIELDS:
        expected = getattr(outcome, field, None)
        if not expected:
            continue
        if field == "source" and expected.at is None and isinstance(outcome, Denied):
            expected = expected.model_copy(update={"at": outcome.at})
        check = lookup.find("checks", field.replace("_", "-"))
        if hasattr(check, "judge"):
            findings += check.judge(expected, evidence, passport)
    return conclude(findings)


def judge_all(expect: Expect, observed: Sequence[tuple[Evidence, Passport]]) -> Iterator[Finding]:
    """Yield what the checks that judge all flows of a load together (`judge_all`) have to say."""
    _, outcome = outcome_of(expect)
    for field in _FIELDS:
        expected = getattr(outcome, field, None)
        check = lookup.find("checks", field.replace("_", "-"))
        if expected and hasattr(check, "judge_all"):
            yield from check.judge_all(expected, observed)


def conclude(findings: list[Finding]) -> Verdict:
    """Return the verdict that findings add up to; none at all is unknown, and so is all when the clock was set."""
    if any(finding.check == "clock" for finding in findings):
        return Verdict("unknown", tuple(finding for finding in findings if finding.check == "clock"))
    states = {finding.state for finding in findings}
    state: State = (
        "broken" if "broken" in states else "unknown" if "unknown" in states or not states else "held"
    )
    return Verdict(state, tuple(findings))


def _lab_is_well(evidence: Evidence) -> Iterator[Finding]:
    for program, code in evidence.recorded.ended.items():
        node, _, name = program.rpartition(" ")
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        yield Finding("lab", "broken", node, f"{name} runs", f"it ended with {how}")


def _evidence_is_whole(outcome: Outcome, evidence: Evidence) -> Iterator[Finding]:
    """Yield what was lost at any hop that the scenario speaks of."""
    if (reason := evidence.recorded.lost.get("clock")) is not None:
        yield Finding("clock", "unknown", "the lab", "one clock for all witnesses", reason)
    hops = {*getattr(outcome, "path", ()), *getattr(outcome, "unseen_by", ()), getattr(outcome, "at", "")}
    for hop in sorted(hops):
        gap = evidence.lost_at(hop)
        if gap is not None:
            yield Finding("evidence", "unknown", hop, "whole evidence", gap)


def _flow_is_over(evidence: Evidence) -> Iterator[Finding]:
    """Yield what no program said in time; it may yet have come to something else."""
    for hop, what in dict.fromkeys(evidence.unfinished):
        yield Finding("quiet", "unknown", hop, what, "nothing of it in time")
