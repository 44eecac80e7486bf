"""Who was who: from the workload that sent a flow to the line of the server that took it, as one table.

Each cell is what a witness on the way recorded: the translation as connection tracking has it, the rules as the packet
filters' logs name them, and the last hop's own line. What nobody recorded has no words in the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.denial import denials, rule_of
from harness.evidence import Evidence, Sighting
from harness.passport import Passport
from harness.programs.fivetuple import FiveTuple
from harness.run import Result

HEADS = (
    "workload",
    "its address",
    "identity",
    "translated",
    "tenant outside",
    "decided",
    "the last hop's own line",
)
NOTHING = "-"
_IDENTITY = HEADS.index("identity")
_TENANTS = 2
"""With fewer tenants that have a pool, nobody needs to be told from another."""


@dataclass(frozen=True, order=True)
class Row:
    """A flow's way, in words."""

    workload: str
    address: str
    identity: str
    translated: str
    tenant: str
    decided: str
    line: str


@dataclass(frozen=True)
class Correlation:
    """The table: without the column for identities where nobody saw one."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def correlate(results: Sequence[Result]) -> Correlation | None:
    """Return a row for each way that flows of a run went; None where the lab has not several tenants with pools.

    Of a load the table has the flow that stands for it.
    """
    ways: Counter[Row] = Counter()
    for result in results:
        if result.evidence is not None and result.passport is not None and _has_tenants(result.evidence):
            ways[_row(result.evidence, result.passport)] += 1
    if not ways:
        return None
    rows = []
    for row, times in sorted(ways.items()):
        line = f"{row.line} ({times} times)" if times > 1 else row.line
        rows.append((row.workload, row.address, row.identity, row.translated, row.tenant, row.decided, line))
    if any(row[_IDENTITY] != NOTHING for row in rows):
        return Correlation(HEADS, tuple(rows))
    return Correlation(_less(HEADS), tuple(map(_less, rows)))


def _less(cells: tuple[str, ...]) -> tuple[str, ...]:
    return cells[:_IDENTITY] + cells[_IDENTITY + 1 :]


def _has_tenants(evidence: Evidence) -> bool:
    tenants = evidence.plan.lab.namespaces.values()
    return len({tenant.snat for tenant in tenants if tenant.snat is not None}) >= _TENANTS


def _row(evidence: Evidence, passport: Passport) -> Row:
    seen = (*passport.at(passport.pod), *passport.sightings)
    first = next((one.flow for one in seen if one.flow is not None), None)
    translated = _translated(passport)
    onward = translated.onward if translated else None
    return Row(
        passport.pod,
        first.src if first else NOTHING,
        next((one.facts["identity"] for one in passport.sightings if one.facts.get("identity")), NOTHING),
        f"{onward.src} at {translated.at}" if translated and onward else NOTHING,
        _tenant(onward, evidence) if onward else NOTHING,
        ", ".join(dict.fromkeys(_decided(passport))) or NOTHING,
        _last_line(passport),
    )


def _translated(passport: Passport) -> Sighting | None:
    """Return the last change of the client's address."""
    changed = [
        one
        for one in passport.sightings
        if one.witness == "conntrack" and one.flow and one.onward and one.onward.src != one.flow.src
    ]
    return changed[-1] if changed else None


def _tenant(flow: FiveTuple, evidence: Evidence) -> str:
    """Return the tenants whose pool has a flow's source address."""
    pools = {
        pool
        for node in evidence.plan.nodes
        for pool, members in getattr(node.spec, "snat_pools", {}).items()
        if flow.src in map(str, members)
    }
    owners = [name for name, tenant in evidence.plan.lab.namespaces.items() if tenant.snat in pools]
    return ", ".join(owners) or NOTHING


def _decided(passport: Passport) -> Iterator[str]:
    """Yield each hop's decision by the name of its rule, a denial with the word for it."""
    against = denials(passport)
    for one in passport.sightings:
        if one.event in ("decision", "allow", "drop", "reject") and rule_of(one):
            word = "no: " if one in against else ""
            yield f"{one.at} {word}{rule_of(one)}"


def _last_line(passport: Passport) -> str:
    """Return what the last hop's own log says of the flow: who came, as it saw it."""
    hops = passport.hops()
    if not hops:
        return NOTHING
    lines = [one for one in passport.at(hops[-1]) if one.witness == "log" and one.flow is not None]
    if not lines:
        return f"none; last seen at {hops[-1]}"
    one = lines[0]
    words = [one.event, *(one.facts[key] for key in ("method", "path", "status") if one.facts.get(key))]
    return f"{hops[-1]}: {' '.join(words)} from {one.flow.src if one.flow else ''}"
