"""What a hop decided about a flow, and what it put on the wire towards the client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum

from harness.capture import Packet
from harness.evidence import APP, RP_FILTER, UNREACHABLE, Evidence, Finding, Sighting
from harness.passport import Passport
from harness.scenario import Denied
from harness.sightings import inverse

_DENIALS = {"drop", "reject", "REJECTED", "tls-failed"}


class Answer(Enum):
    """What went from a hop towards the client's side."""

    NONE = "nothing: it kept silent"
    RESET = "TCP RST"
    ICMP = "an ICMP error"
    ALERT = "a TLS alert"
    CLOSE = "a closed connection (FIN)"


def answer_of(hop: str, evidence: Evidence, passport: Passport) -> Answer:
    """Return the strongest answer that the hop's own taps saw going out to the flow's client side."""
    place = passport.host if hop == "node" else evidence.place_of(hop)
    answers: set[Answer] = set()
    for packet in _packets(evidence, passport):
        if not packet.outgoing or not _is_at(packet.tap, place, hop.partition(" ")[2]):
            continue
        if packet.icmp is not None and packet.icmp[2] in passport.flows:
            answers.add(Answer.ICMP)
        if inverse(packet.flow) not in passport.flows:
            continue
        if "R" in packet.flags:
            answers.add(Answer.RESET)
        if packet.payload[:1] == b"\x15":
            answers.add(Answer.ALERT)
        if "F" in packet.flags:
            answers.add(Answer.CLOSE)
    for answer in (Answer.RESET, Answer.ICMP, Answer.ALERT, Answer.CLOSE):
        if answer in answers:
            return answer
    return Answer.NONE


def _packets(evidence: Evidence, passport: Passport) -> Iterator[Packet]:
    """Yield the flow's packets, those of its answers, and the ICMP errors about it."""
    for flow in passport.flows:
        for one in {flow, inverse(flow)}:
            yield from evidence.recorded.packets_of.get(one, ())


def decisions(hop: str, passport: Passport) -> tuple[Sighting, ...]:
    """Return what the hop itself recorded as its decisions about the flow; a router's are its own ICMP errors."""
    return (*_unreachables(hop, passport), *_recorded(hop, passport))


def _unreachables(hop: str, passport: Passport) -> Iterator[Sighting]:
    """Yield the errors that began at this hop: it sent them, and none of the kind came to it."""
    errors = [s for s in passport.at(hop) if s.event == "icmp" and s.facts.get("icmp") in UNREACHABLE]
    came = {s.facts["by"] for s in errors if s.facts.get("outgoing") == "false"}
    for error in errors:
        if error.facts["by"] not in came:
            words = {"verdict": "reject", "by": UNREACHABLE[error.facts["icmp"]]}
            yield replace(error, event="reject", facts={**error.facts, **words})


def _recorded(hop: str, passport: Passport) -> tuple[Sighting, ...]:
    return tuple(
        sighting
        for sighting in passport.at(hop)
        if sighting.event in ("decision", "tls-failed", "allow", "drop", "reject")
        or (sighting.event == "connection" and sighting.facts.get("refused"))
    )


def denials(passport: Passport) -> tuple[Sighting, ...]:
    """Return every decision against the flow that any hop recorded, in order of time."""
    found = [
        sighting for hop in passport.hops() for sighting in decisions(hop, passport) if _denies(sighting)
    ]
    return tuple(sorted(found, key=lambda sighting: sighting.time))


def rule_of(sighting: Sighting) -> str:
    """Return the name of the rule by which a hop decided; empty when it named none."""
    return sighting.facts.get("by") or sighting.facts.get("rule") or ""


def decision_of(sighting: Sighting) -> str:
    """Return the word for what a hop decided: its own verdict, else `refused`, else the event."""
    refused = "refused" if sighting.facts.get("refused") else sighting.event
    return sighting.facts.get("verdict", refused)


def _denies(sighting: Sighting) -> bool:
    verdict = sighting.facts.get("verdict", sighting.event)
    return verdict in _DENIALS or bool(sighting.facts.get("refused"))


def judge_decision(expected: Denied, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield the finding about who said no, and by what rule."""
    hop = expected.at
    wanted = f"a recorded denial by {expected.by!r}" if expected.by else "a recorded denial"
    if hop == "any":
        yield _denied_somewhere(evidence, passport)
        return
    found = decisions(hop, passport)
    if not found:
        seen = passport.at(hop)
        for sighting in seen:
            proxied = sighting.event in ("connection", "request") and sighting.onward
            if proxied and sighting.onward and not sighting.facts.get("failure"):
                passed = f"it let the flow through, as {sighting.onward.src}:{sighting.onward.sport}"
                yield Finding("denied", "broken", hop, wanted, passed)
                return
        if seen:
            yield Finding("denied", "unknown", hop, wanted, "packets of the flow, and no decision in its log")
            return
        if passport.ambiguous:
            yield Finding("denied", "unknown", hop, wanted, "; ".join(passport.ambiguous))
            return
        gap = evidence.gap(hop, passport.hops())
        if gap is not None:
            yield Finding("denied", "unknown", hop, wanted, f"nothing, and {gap}")
            return
        last = passport.hops()[-1] if passport.hops() else "nowhere"
        yield Finding("denied", "broken", hop, wanted, f"nothing of the flow; last seen at {last}")
        return
    for sighting in _last_said(found):
        verdict = decision_of(sighting)
        rule = rule_of(sighting)
        good = _denies(sighting) and expected.by in (None, rule)
        yield Finding("denied", "held" if good else "broken", hop, wanted, _words(sighting, verdict, rule))


def _last_said(found: tuple[Sighting, ...]) -> Iterator[Sighting]:
    """Yield decisions; of several that packet filters' logs have about one packet, the last: it was not asked again.

    A node asks the sender's policies and then the receiver's, a gateway its policy and then its pool. And where the
    kernel drops the answer, what the rules allowed was the question.
    """
    if any(rule_of(sighting) == RP_FILTER for sighting in found):
        found = tuple(sighting for sighting in found if _denies(sighting))
    last = {packet: one for one in found if (packet := one.facts.get("packet")) is not None}
    for sighting in found:
        packet = sighting.facts.get("packet")
        if packet is None or last[packet] is sighting:
            yield sighting


def _denied_somewhere(evidence: Evidence, passport: Passport) -> Finding:
    wanted = "the flow is denied somewhere"
    if evidence.attempt.succeeded:
        return Finding("denied", "broken", "any", wanted, "the client was served")
    if not passport.sightings:
        return Finding(
            "denied", "unknown", "any", wanted, "no answer for the client, and nothing of its flow"
        )
    return Finding("denied", "held", "any", wanted, "no answer for the client")


def judge_answer(check: str, hop: str, evidence: Evidence, passport: Passport) -> Finding:
    """Return the finding about what the hop put on the wire: something for `rejected`, nothing for `dropped`."""
    answer = answer_of(hop, evidence, passport)
    wanted = "silence towards the client"
    if check == "rejected":
        wanted = "an answer towards the client (RST, ICMP, TLS alert or FIN)"
    gap = evidence.gap(hop, passport.hops())
    if answer is Answer.NONE and gap is not None:
        return Finding(check, "unknown", hop, wanted, f"{answer.value}, and {gap}")
    held = (answer is Answer.NONE) == (check == "dropped")
    return Finding(check, "held" if held else "broken", hop, wanted, answer.value)


def _words(sighting: Sighting, verdict: str, rule: str) -> str:
    by = f" by {rule!r}" if rule else ""
    identity = f", identity {sighting.facts['identity']}" if sighting.facts.get("identity") else ""
    reason = f" ({sighting.facts['reason']})" if sighting.facts.get("reason") else ""
    return f"{verdict}{by}{identity}{reason}"


def _is_at(tap: str, place: str, container: str) -> bool:
    """Say whether a tap is a hop's: what a server's sidecar tells its app, over loopback, is no answer to a client."""
    mine = tap.startswith(place + ".")
    return mine and (not container or (container == APP) == tap.endswith(".lo"))
