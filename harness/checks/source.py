"""`source`: the client address that a hop saw, attested by four witnesses who must agree.

The hop's own log, conntrack's translated tuple where the address was changed, the counter of the rule that changed
it, and the opening packet as it left there and as it arrived here (same IP id and sequence number), which must be the
one that came to who changed it. The expected
address comes from the lab file's declaration; rules that the harness computed are no witness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from harness.capture import Packet
from harness.evidence import Evidence, Finding, Sighting, State
from harness.passport import Passport
from harness.plan import counter_name
from harness.programs.fivetuple import FiveTuple
from harness.scenario import Source


def judge(expected: Source, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield one finding that names every witness and what it says."""
    hop = expected.at or ""
    allowed = _declared(expected.is_, evidence)
    if any(
        ":" in flow.dst for flow in passport.flows
    ):  # of a flow over IPv6, the same node's address of that family
        allowed = {
            str(evidence.bindings.sixes.get(IPv4Address(one), one)) for one in allowed if ":" not in one
        } | {one for one in allowed if ":" in one}
    wanted = f"source {expected.is_} ({', '.join(sorted(allowed))})"
    arrived = {
        sighting.flow
        for sighting in passport.at(hop)
        if sighting.flow and sighting.event == "opening" and sighting.facts.get("outgoing") == "false"
    }
    words = _witnesses(expected, hop, arrived, evidence, passport)
    says = "; ".join(f"{name} {', '.join(sorted(seen)) or 'nothing'}" for name, seen in words.items())
    every = set().union(*words.values())
    if every - allowed:
        yield Finding("source", "broken", hop, wanted, says)
    elif not every or not all(words.values()):
        yield Finding("source", "unknown", hop, f"{wanted} by {len(words)} witnesses", says or "nothing")
    else:
        yield Finding("source", "held", hop, wanted, says)


def judge_all(expected: Source, observed: Sequence[tuple[Evidence, Passport]]) -> Iterator[Finding]:
    """Yield what a load's flows are to have in common, or not: each pod one address, all pods the whole pool."""
    hop = expected.at or ""
    seen: dict[str, Counter[str]] = {}
    for _, passport in observed:
        found = {s.flow.src for s in passport.at(hop) if s.flow and s.witness in ("log", "nflog")}
        seen.setdefault(passport.pod, Counter()).update(found)
    whole = sum(counted.total() for counted in seen.values()) == len(observed)
    lacks: State = "held" if whole else "unknown"
    if expected.sticky:
        of_pods = (
            f"{pod} {', '.join(f'{address} in {count} flows' for address, count in sorted(counted.items()))}"
            for pod, counted in seen.items()
            if counted
        )
        torn = any(len(counted) > 1 for counted in seen.values())
        wanted = f"one address for all flows of a pod, {len(observed)} of {len(seen)} pods"
        yield Finding("sticky", "broken" if torn else lacks, hop, wanted, "; ".join(of_pods) or "nothing")
    if expected.spread:
        every = set().union(*seen.values())
        missing = _declared(expected.is_, observed[0][0]) - every
        words = f"{', '.join(sorted(every)) or 'nothing'}" + (
            f"; never {', '.join(sorted(missing))}" if missing else ""
        )
        state: State = lacks if not missing else "broken" if whole else "unknown"
        yield Finding("spread", state, hop, f"flows from every address of {expected.is_}", words)


def _declared(name: str, evidence: Evidence) -> set[str]:
    plan, bindings = evidence.plan, evidence.bindings
    pod = plan.node(evidence.attempt.pod)
    if name == "pod":
        return {str(bindings.address(pod))}
    if name == "node":
        return {str(bindings.address(plan.node(pod.host or "")))}
    if name == "net1":
        return {str(bindings.second[pod.name])}
    kind, _, pool = name.partition("/")
    if kind == "snat" and pool:
        members: set[IPv4Address] = set()
        for node in plan.nodes:
            members |= set(getattr(node.spec, "snat_pools", {}).get(pool, ()))
        return {str(member) for member in members}
    if kind == "automap" and pool:
        gateways = [node for node in plan.nodes if pool in getattr(node.spec, "listeners", {})]
        vlans = [(node.name, getattr(node.spec, "listeners", {})[pool].vlans[0]) for node in gateways]
        return {str(bindings.addresses[vlan]) for vlan in vlans}
    return {str(address) for address in bindings.all_addresses(plan.node(name))}


def _witnesses(
    expected: Source, hop: str, arrived: set[FiveTuple], evidence: Evidence, passport: Passport
) -> dict[str, set[str]]:
    words: dict[str, set[str]] = {}
    words[f"{hop}'s log"] = {
        sighting.flow.src
        for sighting in passport.at(hop)
        if sighting.flow and sighting.witness in ("log", "nflog")
    }
    translations = [
        sighting
        for sighting in passport.sightings
        if sighting.witness == "conntrack" and sighting.facts.get("translated") and sighting.onward in arrived
    ]
    if _is_masqueraded(expected.is_, evidence) or expected.is_.startswith(("snat/", "automap/")):
        words["conntrack"] = {sighting.onward.src for sighting in translations if sighting.onward}
        words["counter"] = set().union(*(_counted(expected, s.at, evidence, s.onward) for s in translations))
    syns = [packet for flow in arrived for packet in evidence.recorded.first_packets.get(flow, ())]
    words["packets"] = {
        packet.flow.src
        for packet in syns
        if not packet.outgoing and packet.tap.startswith(f"{passport.host if hop == 'node' else hop}.")
        if any(
            other.outgoing
            and (other.ip_id, other.seq, other.flow) == (packet.ip_id, packet.seq, packet.flow)
            and other.tap.startswith(tuple(f"{s.at}." for s in translations) or "")
            and all(_crossed(s, other, evidence) for s in translations if other.tap.startswith(f"{s.at}."))
            for other in syns
        )
    }
    return words


def _crossed(translation: Sighting, left: Packet, evidence: Evidence) -> bool:
    """Tell whether a packet that left where its source was changed is one that came there, one hop younger.

    Only addresses differ: same port, IP id, sequence number, time stamp (RFC 7323) and payload. A pool of few ports
    has the port too changed. What a proxy opened from an inside address began there, so there is nothing to compare.
    """
    flow = translation.flow
    inside = {str(address) for address in evidence.bindings.inside.values()}
    if flow is None or flow == left.flow or flow.src in inside:
        return True
    came = [
        packet
        for packet in evidence.recorded.first_packets.get(flow, ())
        if not packet.outgoing and packet.tap.startswith(f"{translation.at}.")
    ]
    few = bool(getattr(evidence.plan.node(translation.at).spec, "snat_ports", {}))
    words = (left.ip_id, left.seq, left.tsval, left.payload, left.ttl + 1)
    return (few or left.flow.sport == flow.sport) and words in [
        (one.ip_id, one.seq, one.tsval, one.payload, one.ttl) for one in came
    ]


def _is_masqueraded(name: str, evidence: Evidence) -> bool:
    """Tell whether a source is a cluster node's address: the client's own node's, or one that is named."""
    return name == "node" or name in {node.name for node in evidence.plan.cluster_nodes}


def _counted(expected: Source, node: str, evidence: Evidence, onward: FiveTuple | None) -> set[str]:
    """Return the translated address when the rule's counter moved by all flows that this node translated."""
    kind, _, which = expected.is_.partition("/")
    masqueraded = _is_masqueraded(expected.is_, evidence)
    name = "masqueraded" if masqueraded else counter_name(kind, which)
    before, after = evidence.recorded.counters.get(node, {}).get(name, (0, 0))
    translated = {
        sighting.flow
        for sighting in evidence.recorded.by_place.get(node, ())
        if sighting.flow and sighting.onward and sighting.onward.src != sighting.flow.src
        if onward is not None and sighting.onward.src == onward.src and sighting.witness == "conntrack"
    }
    return {onward.src} if onward is not None and after - before >= len(translated) else set()
