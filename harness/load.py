"""One verdict on many flows: a load, and what changed while it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Item
from harness.verdict import Verdict, conclude, judge, judge_all

_SHOWN = 3
"""How many flows that did not hold are told of, each with its own reasons."""


@dataclass(frozen=True)
class Changed:
    """When the steps of `during` began and were done, in ns since the epoch."""

    began: int
    done: int


@dataclass(frozen=True)
class LoadResult:
    """The verdict on a load, the flow that stands for it (the first that did not hold), and how many came to what."""

    verdict: Verdict
    evidence: Evidence
    passport: Passport
    states: Mapping[State, int]


def judge_load(
    item: Item, observed: Sequence[tuple[Evidence, Passport]], changed: Changed | None
) -> LoadResult:
    """Judge each flow of a load, then all of them together."""
    verdicts = [judge(evidence, passport) for evidence, passport in observed]
    failed = [number for number, verdict in enumerate(verdicts) if verdict.state != "held"]
    failed.sort(key=lambda number: verdicts[number].state)  # broken before unknown
    findings = list(_of_flows(observed, verdicts, failed))
    counts = Counter(verdict.state for verdict in verdicts)
    came = ", ".join(f"{counts[state]} {state}" for state in ("held", "broken", "unknown") if counts[state])
    worst: State = verdicts[failed[0]].state if failed else "held"
    findings.append(
        Finding("load", worst, item.source, f"{len(observed)} flows, each as the scenario says", came)
    )
    if changed is not None:
        findings.append(_while_it_ran(item, observed, changed))
    findings += judge_all(item.scenario.expect, observed)
    evidence, passport = observed[failed[0] if failed else 0]
    return LoadResult(conclude(findings), evidence, passport, dict(counts))


def _of_flows(
    observed: Sequence[tuple[Evidence, Passport]], verdicts: Sequence[Verdict], failed: Sequence[int]
) -> Iterator[Finding]:
    """Yield the reasons of the first flows that did not hold; where all held, what was seen of the first."""
    if not failed:
        yield from verdicts[0].findings
    begun = observed[0][0].attempt.started
    for number in failed[:_SHOWN]:
        after = (observed[number][0].attempt.started - begun) / 1e9
        for reason in verdicts[number].reasons:
            which = f"flow {number + 1} of {len(observed)}, {after:.2f} s in"
            yield replace(reason, seen=f"{reason.seen} ({which})")


def _while_it_ran(item: Item, observed: Sequence[tuple[Evidence, Passport]], changed: Changed) -> Finding:
    """Say how many flows began before, amid and after the steps; without some on both sides nothing is proven."""
    starts = [evidence.attempt.started for evidence, _ in observed]
    before = sum(start < changed.began for start in starts)
    after = sum(start > changed.done for start in starts)
    amid = len(starts) - before - after
    took = (changed.done - changed.began) / 1e9
    return Finding(
        "during",
        "held" if before and after else "unknown",
        item.source,
        "flows before the steps and after them",
        f"{before} before, {amid} in the {took:.2f} s of the steps, {after} after",
    )
