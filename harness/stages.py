"""A passport read from front to back: what each hop saw of a flow and did with it, who said no first, what was lost.

Every word comes from what was recorded on the way; the lab file only adds the line of a rule that a hop named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from harness.denial import decisions, denials, rule_of
from harness.evidence import SIDECAR, Evidence, Sighting
from harness.mtls import MUTUAL_TLS
from harness.plan import counter_name
from harness.rule_places import Place, place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from harness.passport import Passport
    from harness.programs.fivetuple import FiveTuple
    from harness.source import Document

Answer = Literal["allowed", "denied", "not resolved", "unknown"]
_OUTWARD = ("reset", "icmp")


@dataclass(frozen=True)
class Decision:
    """What a hop decided: `permits` or not, by which rule, written where, and how often that rule had counted.

    `counted` is the rule's counter before and after the flow, in packets, where the hop has one.
    """

    at: str
    permits: bool
    rule: str
    identity: str
    reason: str
    place: Place | None
    counted: tuple[int, int] | None


@dataclass(frozen=True)
class Stage:
    """A hop that saw the flow: as what it arrived, as what it went on, and what was decided there.

    `translated` are changes of address that connection tracking recorded there: as what before, as what after.
    """

    at: str
    time: int
    arrived: FiveTuple | None
    onward: tuple[FiveTuple, ...]
    translated: tuple[tuple[FiveTuple, FiveTuple], ...]
    witnesses: tuple[str, ...]
    identity: str
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What became of a flow. `no` is the first hop's decision against it, `lost` what evidence is missing.

    `refused` names the hop that answered with a reset or an ICMP error although no rule of it was recorded.
    """

    answer: Answer
    stages: tuple[Stage, ...]
    no: Decision | None
    refused: Sighting | None
    client: str
    reached: bool
    lost: tuple[str, ...]

    @property
    def permits(self) -> tuple[Decision, ...]:
        """What let the flow through, in the order of the path."""
        return tuple(one for stage in self.stages for one in stage.decisions if one.permits)


def read(evidence: Evidence, passport: Passport, ends: Collection[str], document: Document) -> Reading:
    """Return what became of a flow that is meant for one of `ends`; `document` is the lab file as it runs."""
    against = denials(passport)
    reached = any(_arrived(passport, end) for end in ends)
    succeeded = evidence.attempt.succeeded
    served = succeeded or any(s.witness == "log" for end in ends for s in passport.at(end))
    refused = None if against or (succeeded and reached) else _refused(passport)
    outcome = evidence.attempt.outcome
    answer: Answer = "unknown"
    if against or refused is not None:
        answer = "denied"
    elif reached and served:
        answer = "allowed"
    elif outcome is not None and outcome.stage == "resolve" and not passport.sightings:
        answer = "not resolved"
    return Reading(
        answer,
        tuple(_stages(evidence, passport, document)),
        _decision(against[0], evidence, document) if against else None,
        refused,
        evidence.attempt.text.splitlines()[-1].strip() if evidence.attempt.text else "nothing",
        reached,
        tuple(dict.fromkeys(_lost(evidence, passport))),
    )


def _arrived(passport: Passport, end: str) -> bool:
    return any(sighting.facts.get("outgoing") != "true" for sighting in passport.at(end))


def _refused(passport: Passport) -> Sighting | None:
    """Return the first reset or ICMP error on the wire towards the client, if the hop that sent it is known."""
    there = (
        one for one in passport.sightings if one.at != passport.pod
    )  # the client's own sidecar passes it on
    first = next((one for one in there if one.event in _OUTWARD), None)
    return first if first is not None and first.facts.get("outgoing") == "true" else None


def _stages(evidence: Evidence, passport: Passport, document: Document) -> Iterator[Stage]:
    for hop in passport.hops():
        seen = passport.at(hop)
        arrived = next((sighting.flow for sighting in seen if sighting.flow is not None), None)
        moved = [s for s in seen if s.onward is not None and s.onward != s.flow]
        recorded = decisions(hop, passport) or tuple(_accepted(hop, passport))
        decided = [_decision(one, evidence, document) for one in recorded]
        yield Stage(
            hop,
            seen[0].time,
            arrived,
            tuple(dict.fromkeys(s.onward for s in moved if s.onward and s.witness != "conntrack")),
            tuple(
                dict.fromkeys(
                    (s.flow, s.onward) for s in moved if s.flow and s.onward and s.witness == "conntrack"
                )
            ),
            tuple(dict.fromkeys(sighting.witness for sighting in seen)),
            next((s.facts["identity"] for s in seen if s.facts.get("identity")), ""),
            tuple(dict.fromkeys(decided)),
            tuple(dict.fromkeys(_notes(seen))),
        )


def _accepted(hop: str, passport: Passport) -> Iterator[Sighting]:
    """Yield what a server's sidecar let through to its app: by what its mutual TLS accepts."""
    if hop.endswith(f" {SIDECAR}") and hop != f"{passport.pod} {SIDECAR}":
        for sighting in passport.at(hop):
            if sighting.onward is not None and not sighting.facts.get("failure"):
                yield replace(sighting, event="allow", facts={**sighting.facts, "by": MUTUAL_TLS})


def _notes(seen: tuple[Sighting, ...]) -> Iterator[str]:
    """Yield what a hop itself sent towards the client, and did not only pass on, and what its log adds."""
    passed = {s.event for s in seen if s.event in _OUTWARD and s.facts.get("outgoing") != "true"}
    for sighting in seen:
        if sighting.event in _OUTWARD and sighting.event not in passed:
            what = f"ICMP {sighting.facts['icmp']}" if sighting.event == "icmp" else "TCP RST"
            yield f"sent {what} out of {sighting.facts['tap']}"
        for key in ("request", "failure", "status"):
            if sighting.facts.get(key):
                yield f"{key} {sighting.facts[key]}"


def _decision(sighting: Sighting, evidence: Evidence, document: Document) -> Decision:
    rule = rule_of(sighting)
    verdict = sighting.facts.get("verdict", sighting.event)
    counters = evidence.recorded.counters.get(sighting.at, {})
    denied = counters.get(counter_name("denied", rule)) if sighting.event == "drop" else None
    counted = (
        denied
        or counters.get(counter_name("rule", rule))
        or (counters.get(rule) if sighting.witness == "nflog" else None)
    )
    return Decision(
        sighting.at,
        verdict in ("allow", "PERMITTED"),
        rule,
        sighting.facts.get("identity", ""),
        sighting.facts.get("reason", ""),
        place_of(sighting, evidence.plan, document),
        (counted[0], counted[1]) if counted else None,
    )


def _lost(evidence: Evidence, passport: Passport) -> Iterator[str]:
    """Yield what is missing of the records of any hop that the flow came to, or of what the flow was."""
    for hop, what in evidence.unfinished:
        yield f"{hop} lacks {what}"
    for hop in passport.hops():
        reason = evidence.lost_at(hop)
        if reason is not None:
            yield f"{hop}: {reason}"
    yield from passport.ambiguous
    for program, code in evidence.recorded.ended.items():
        yield f"{program} is not running (status {code})"
