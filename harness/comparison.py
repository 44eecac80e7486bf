"""The table of a run: what came of each scenario that has a place in it, in words that the evidence gave.

What a scenario expects has no part in it: a cell says which hop denied the flow and by what rule, or that it got
through and as whom the server saw it. Where the evidence does not say, the cell does not either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.attacks import title_of
from harness.denial import denials, rule_of
from harness.evidence import SIDECAR, Evidence
from harness.passport import Passport
from harness.run import Result

NOT_RUN = "-"


@dataclass(frozen=True)
class Comparison:
    """Rows and columns in the order in which they first occurred, and the words of each cell that was run."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]

    def line(self, row: str) -> tuple[str, ...]:
        """Return the cells of a row."""
        return tuple(self.cells.get((row, column), NOT_RUN) for column in self.columns)


def compare(results: Sequence[Result]) -> Comparison | None:
    """Return the table of these results; None when none of them has a place in one.

    A scenario with several cases says in its cell each thing that came of them.
    """
    words: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        place = result.item.scenario.table
        if place is not None:
            row = place.row or title_of(result.item.attack or "")
            words.setdefault((row, place.column), {})[cell_of(result)] = None
    if not words:
        return None
    rows = dict.fromkeys(row for row, _ in words)
    columns = dict.fromkeys(column for _, column in words)
    return Comparison(tuple(rows), tuple(columns), {key: "; ".join(found) for key, found in words.items()})


def cell_of(result: Result) -> str:
    """Return what came of a flow, and whether its scenario did not hold."""
    verdict, evidence, passport = result.verdict, result.evidence, result.passport
    if verdict.state == "unknown" or evidence is None or passport is None:
        reason = next((finding for finding in verdict.reasons), None)
        return (
            f"unknown ({reason.at}: {reason.seen.splitlines()[0]})" if reason and reason.seen else "unknown"
        )
    broken = " (its scenario is broken)" if verdict.state == "broken" else ""
    return _came_of(evidence, passport, told=result.item.attack is not None) + broken


def _came_of(evidence: Evidence, passport: Passport, *, told: bool) -> str:
    """Return what came of a flow; of one that was stopped, `told` says to add the hop's own reason."""
    denied, served = denials(passport), _server(evidence, passport)
    if denied and served and served != denied[0].at:  # the answer of a hop that denies may be a TLS alert
        return f"unknown (denied at {_place(denied[0].at, passport)}, and yet answered)"
    if denied:
        rule = rule_of(denied[0])
        stopped = f"stopped at {_place(denied[0].at, passport)}" + (f" by {rule!r}" if rule else "")
        if told and (reason := _words(denied[0].facts.get("reason", ""))):
            stopped += f" ({reason})"
        return ", yet seen at ".join([stopped, *_beyond(denied[0].at, passport)])
    if served:
        seen = dict.fromkeys(_clients(evidence.place_of(served), evidence, passport))
        return f"gets through as {', '.join(seen)}" if seen else "gets through"
    return "unknown (neither a denial nor an answer)"


def _words(reason: str) -> str:
    """Return the last words of a TLS library's reason: `CERTIFICATE_VERIFY_FAILED: certificate has expired`."""
    last = reason.removesuffix(":TLS_error_end").rpartition(":")[2]
    words = last.replace("_", " ").strip()
    return words.lower() if words.isupper() else words


def _server(evidence: Evidence, passport: Passport) -> str | None:
    """Return the last hop of a flow whose client got an answer, if that hop's own log has the flow."""
    attempt = evidence.attempt
    answered = attempt.outcome is not None and attempt.outcome.status == "answered"
    if attempt.command is not None:  # an exit status of 0 is no answer: nc has it when it is refused, too
        answered = attempt.command.code == 0 and bool(attempt.command.stdout.strip())
    if not answered or not passport.hops():
        return None
    last = passport.hops()[-1]
    return last if any(sighting.witness == "log" for sighting in passport.at(last)) else None


def _beyond(denier: str, passport: Passport) -> Iterator[str]:
    """Yield the hops that saw the flow after one that denied it, or a connection that no record accounts for."""
    hops = passport.hops()
    later = () if denier == f"{passport.pod} {SIDECAR}" else hops[hops.index(denier) + 1 :]
    found = dict.fromkeys([*later, *(stray.at for stray in passport.strays if stray.at != denier)])
    if found:
        yield ", ".join(found)


def _place(at: str, passport: Passport) -> str:
    return "its sidecar" if at == f"{passport.pod} {SIDECAR}" else at


def _clients(node: str, evidence: Evidence, passport: Passport) -> Iterator[str]:
    """Yield by its name each client that a node's own log has for the flow."""
    for sighting in passport.at(node):
        if sighting.witness == "log" and sighting.flow is not None:
            yield _owner(sighting.flow.src, evidence)


def _owner(address: str, evidence: Evidence) -> str:
    """Return the node, or the SNAT pool, that has an address."""
    for node in evidence.plan.nodes:
        for pool, members in getattr(node.spec, "snat_pools", {}).items():
            if address in map(str, members):
                return f"snat/{pool}"
        if address in map(str, evidence.bindings.of_both_families(node)):
            return node.name
    return address
