"""`allowed`: the client got its answer, and every hop of the path saw the flow, in that order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness import lookup
from harness.denial import denials, rule_of
from harness.evidence import SIDECAR, Evidence, Finding, Sighting
from harness.passport import Passport, sent_by
from harness.plan import Node
from harness.programs.fivetuple import ICMP
from harness.scenario import Allowed


def judge(expected: Allowed, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield one finding for the client and one for each hop."""
    yield from _hops(expected.path, evidence, passport)
    yield from _failures(passport)
    attempt = evidence.attempt
    if attempt.succeeded:
        yield Finding("allowed", "held", attempt.pod, "the client is served", _client_saw(evidence))
        return
    at, seen = passport.hops()[-1] if passport.hops() else attempt.pod, _client_saw(evidence)
    refused = denials(passport)
    if refused:
        at, rule = refused[0].at, rule_of(refused[0])
        seen += f"; refused there by {rule!r}" if rule else "; refused there"
    yield Finding("allowed", "broken", at, "the client is served", seen)


def _failures(passport: Passport) -> Iterator[Finding]:
    """Yield each request that a gateway answered itself: for the client a 503 is an answer like any other."""
    for sighting in passport.sightings:
        if sighting.event == "request" and sighting.facts.get("flags"):
            words = (sighting.facts.get(key) for key in ("status", "flags", "details", "failure"))
            wanted = "the request is answered by what is behind it"
            yield Finding("allowed", "broken", sighting.at, wanted, " ".join(filter(None, words)))


def _client_saw(evidence: Evidence) -> str:
    attempt = evidence.attempt
    if attempt.command is not None:
        code = attempt.command.code
        ended = "ran out of time" if code is None else f"exit status {code}"
        words = attempt.text.strip().splitlines()
        return f"{ended}, {words[-1]}" if words else ended
    if attempt.outcome is not None:
        outcome = attempt.outcome
        return f"{outcome.stage}: {outcome.status} {outcome.detail}".strip()
    return "nothing"


def _hops(path: tuple[str, ...], evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    reached = 0
    for hop in path:
        seen = passport.at(hop)
        if not seen:
            before = passport.hops()[-1] if passport.hops() else "nowhere"
            gap = evidence.gap(hop, passport.hops())
            if passport.ambiguous:
                yield Finding("path", "unknown", hop, "the flow passes here", "; ".join(passport.ambiguous))
            elif gap is not None:
                yield Finding("path", "unknown", hop, "the flow passes here", f"nothing, and {gap}")
            else:
                yield Finding(
                    "path", "broken", hop, "the flow passes here", f"nothing; last seen at {before}"
                )
            return
        logs = _keeps_log(hop, evidence) and not _is_passing(hop, seen, evidence)
        if logs and not any(sighting.witness == "log" for sighting in seen):
            refused = any(sighting.event == "reset" and _is_sent(sighting) for sighting in seen)
            saw = "a RST in answer" if refused else "packets of it"
            yield Finding(
                *("path", "broken" if refused else "unknown", hop),
                *("its log records the flow", f"{saw}, and no line in its log"),
            )
            return
        first = min(sighting.time for sighting in seen)
        if first < reached:
            yield Finding(
                "path",
                "broken",
                hop,
                f"the order {' > '.join(path)}",
                "the flow earlier than at the hop before",
            )
            return
        reached = first if hop != SIDECAR else reached
        yield Finding(
            "path", "held", hop, "the flow passes here", ", ".join(sorted({s.witness for s in seen}))
        )


def _is_passing(hop: str, seen: Sequence[Sighting], evidence: Evidence) -> bool:
    """Say whether a node forwarded, or sent, what a probe addressed to another: its programs have no part in that.

    Only where every packet is still as the probe sent it: what was redirected to a proxy is in its log. Nor have
    programs a part in an echo, which kernels answer.
    """
    sent = sent_by(evidence.attempt)
    node = evidence.plan.by_name.get(hop)
    if sent is None or node is None:
        return False
    if sent.protocol == ICMP:
        return True
    own = {str(address) for address in evidence.bindings.of_both_families(node)}
    return sent.dst not in own and {sighting.flow for sighting in seen} == {sent} and _routes(node)


def _routes(node: Node) -> bool:
    """Say whether it is a way for others, and no pod."""
    return node.forwards and node.placement == "outside"


def _is_sent(sighting: Sighting) -> bool:
    return sighting.facts.get("outgoing") == "true"


def _keeps_log(hop: str, evidence: Evidence) -> bool:
    container = hop.partition(" ")[2]
    if SIDECAR in (hop, container):
        return True
    place = evidence.place_of(hop)
    node = evidence.plan.by_name.get(place)
    if node is None:
        return False
    plugs = [lookup.find("nodes", kind) for kind in node.kinds]
    return any(hasattr(plug, "read_log") and getattr(plug, "keeps_log", _always)(node) for plug in plugs)


def _always(_: Node) -> bool:
    return True
