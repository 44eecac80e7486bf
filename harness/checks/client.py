"""`client`: the client's exit status, and words that it printed.

Scenarios say what the article's client showed, which the builtin engine reproduces. Where the hop that denied runs
another engine, what that engine declares to differ stands in place of it (docs/engines.md), and the finding says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness import lookup
from harness.denial import decisions
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Client
from harness.verdict import outcome_of


@dataclass(frozen=True)
class _Wanted:
    """Any of these statuses, all of these words; `because` says whose words they are, if not the scenario's."""

    exits: tuple[int, ...]
    shows: tuple[str, ...]
    because: str = ""


def judge(expected: Client, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for the status and one for each text."""
    attempt = evidence.attempt
    wanted = _wanted(expected, evidence, passport)
    if wanted.exits:
        code = attempt.command.code if attempt.command else None
        state: State = "unknown" if code is None else "held" if code in wanted.exits else "broken"
        seen = "no exit status: the command ran out of time" if code is None else f"exit status {code}"
        statuses = " or ".join(map(str, wanted.exits))
        yield Finding("client", state, attempt.pod, f"exit status {statuses}{wanted.because}", seen)
    for words in wanted.shows:
        state = "held" if words in attempt.text else "broken"
        seen = words if state == "held" else repr(attempt.text.strip()[-300:])
        yield Finding("client", state, attempt.pod, f"the client shows {words!r}{wanted.because}", seen)


def _wanted(expected: Client, evidence: Evidence, passport: Passport) -> _Wanted:
    said = _Wanted(() if expected.exit is None else (expected.exit,), expected.shows)
    hop = getattr(outcome_of(evidence.attempt.item.scenario.expect)[1], "at", None)
    node = evidence.plan.by_name.get(hop or "")
    if node is None:
        return said
    for kind in node.kinds:
        differing = getattr(lookup.find("nodes", kind), "instead", None)
        if differing is None:
            continue
        for decision in decisions(node.name, passport):
            engine, entries = differing(node, decision.facts.get("by", ""))
            for entry in entries:
                # a part of what the builtin engine makes a client show stands for all of it
                meant = [words for words in expected.shows if words and words in entry.words]
                alike = bool(meant) if entry.words else not expected.shows
                if alike and expected.exit in (None, entry.exit):
                    told = f" (as {engine} at {hop} has it; the scenario says {_words(expected)})"
                    shows = (entry.shows if words in meant else words for words in expected.shows)
                    return _Wanted(
                        () if expected.exit is None else entry.exits,
                        tuple(words for words in shows if words),
                        told,
                    )
    return said


def _words(expected: Client) -> str:
    status = [] if expected.exit is None else [f"exit status {expected.exit}"]
    return ", ".join([*status, *(repr(words) for words in expected.shows)])
