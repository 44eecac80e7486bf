"""Joins the sightings of one flow into its passport: every hop it was seen at, by the chain of 5-tuples.

From what the client sent, each witness that knows both sides of a hop (a proxy's log, conntrack) leads to the next
5-tuple. A forward proxy that logs no ports is joined by elimination, which needs the lab to oneself; where two
flows could be meant, the join says so and the verdict is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from harness import lookup
from harness.evidence import APP, OPENINGS, SIDECAR, Attempt, Recorded, Sighting
from harness.plan import Bindings, Node, Plan
from harness.programs.fivetuple import ICMP, TCP, UDP, FiveTuple
from harness.sightings import ECHO, read_address

_PROTOCOLS = {"icmp": ICMP, "udp": UDP}
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Passport:
    """A flow's sightings in order of time, and what could not be told apart.

    `flows` are all 5-tuples that are this flow; `strays` openings that no other flow of the lab accounts for.
    """

    pod: str
    flows: frozenset[FiveTuple]
    sightings: tuple[Sighting, ...]
    strays: tuple[Sighting, ...]
    ambiguous: tuple[str, ...]
    host: str = ""

    def at(self, hop: str) -> tuple[Sighting, ...]:
        """Return what was seen at a hop; `sidecar` is the one beside the client, `node` the one it runs on."""
        return self._seen(self.sightings, hop)

    def strays_at(self, hop: str) -> tuple[Sighting, ...]:
        """Return the strays at a hop."""
        return self._seen(self.strays, hop)

    def _seen(self, sightings: Iterable[Sighting], hop: str) -> tuple[Sighting, ...]:
        place = {SIDECAR: f"{self.pod} {SIDECAR}", "node": self.host}.get(hop, hop)
        node, _, container = place.partition(" ")
        return tuple(
            sighting
            for sighting in sightings
            if sighting.at == place
            or (container == APP and sighting.at == node and _is_from_own_sidecar(sighting))
        )

    def hops(self) -> tuple[str, ...]:
        """Return the places in the order in which they first saw the flow."""
        return tuple(dict.fromkeys(sighting.at for sighting in self.sightings))


def _is_from_own_sidecar(sighting: Sighting) -> bool:
    """Say whether a pod's sidecar opened this to the app: from and to the pod's own address, over loopback."""
    flow = sighting.flow
    return flow is not None and flow.src == flow.dst


def join(attempt: Attempt, recorded: Recorded, plan: Plan, bindings: Bindings) -> Passport:
    """Return the passport of an attempt."""
    return join_all([attempt], recorded, plan, bindings)[0]


def join_all(
    attempts: Sequence[Attempt], recorded: Recorded, plan: Plan, bindings: Bindings
) -> list[Passport]:
    """Return the passports of attempts that were recorded together."""
    opened = _opened_by_proxies(recorded, plan, bindings)
    return [_join(attempt, recorded, plan, bindings, opened) for attempt in attempts]


def _join(
    attempt: Attempt, recorded: Recorded, plan: Plan, bindings: Bindings, opened: Sequence[Sighting]
) -> Passport:
    roots = _roots(attempt, recorded, plan, bindings)
    known, used = recorded.follow(roots, attempt.started)
    in_vain = _dialled_in_vain(known, used.values(), recorded)
    further_known, further_used = recorded.follow(in_vain, attempt.started)
    known |= further_known
    used |= further_used
    ambiguous: list[str] = []
    for node in plan.of_kind("forward-proxy"):
        there = recorded.by_place.get(node.name, ())
        more, reasons = _through_forward_proxy(node.name, known, there, bindings.all_addresses(node))
        ambiguous += reasons
        for sighting in more:
            used[id(sighting)] = sighting
        further = {sighting.flow for sighting in more if sighting.event == "opening" and sighting.flow}
        onward_known, onward_used = recorded.follow(further, attempt.started)
        known |= onward_known
        used |= onward_used
    mine = sorted(_less_former_ends(used.values()), key=lambda sighting: sighting.time)
    strays = _strays(attempt, known, recorded, opened)
    host = plan.node(attempt.pod).host or ""
    return Passport(attempt.pod, frozenset(known), tuple(mine), strays, tuple(ambiguous), host)


def sent_by(attempt: Attempt) -> FiveTuple | None:
    """Return the 5-tuple that a probe sent; None for a command, and for a probe that sent nothing."""
    outcome = attempt.outcome
    local = read_address(outcome.local) if outcome else None
    remote = read_address(outcome.remote) if outcome else None
    if local is None or remote is None:
        return None
    scheme = urlsplit(attempt.item.to or "").scheme
    port = ECHO if scheme == "icmp" else remote[1]
    return FiveTuple(_PROTOCOLS.get(scheme, TCP), local[0], local[1], remote[0], port)


def _roots(attempt: Attempt, recorded: Recorded, plan: Plan, bindings: Bindings) -> set[FiveTuple]:
    """Return the 5-tuples that the client itself opened: known for a probe, observed for a command.

    A command on a proxy's own machine may use an address that the proxy uses too; what the proxy opened it logged.
    """
    if attempt.outcome is not None:
        sent = sent_by(attempt)
        return {sent} if sent else set()
    sidecar = f"{attempt.pod} {SIDECAR}"
    sightings, node = recorded.sightings, plan.node(attempt.pod)
    by_sidecar = {
        sighting.onward for sighting in sightings if sighting.at == sidecar and sighting.onward is not None
    }
    own = {str(address) for address in bindings.of_both_families(node)}
    shared = {str(address) for address in _claimed(node)}
    return {
        sighting.flow
        for sighting in sightings
        if sighting.at in (attempt.pod, sidecar)
        and sighting.event in ("new", "opening", "connection")
        and sighting.flow is not None
        and sighting.flow.protocol == TCP
        and (
            sighting.flow.src in own
            or (sighting.flow.src in shared and sighting.flow not in recorded.accounted)
        )
        and sighting.flow not in by_sidecar
        and sighting.time >= attempt.started
        and sighting.time <= attempt.ended
    }


def _claimed(node: Node) -> Iterator[IPv4Address]:
    """Yield the addresses that a node holds beside those of its networks, as an egress proxy its SNAT pools."""
    for kind in node.kinds:
        claims = getattr(lookup.find("nodes", kind), "claims", None)
        yield from (address for _, address in claims(node.spec)) if claims else ()


def _dialled_in_vain(known: set[FiveTuple], used: Iterable[Sighting], recorded: Recorded) -> set[FiveTuple]:
    """Return what sidecars opened for connections of ours that failed: Envoy's log names no port of those.

    Joined by elimination: one connection failed at the sidecar, and one that its pod opened is in no log. Of several,
    one each to the same address and port: what goes to no service is opened to where the client meant to go.
    """
    found: set[FiveTuple] = set()
    mine = [sighting for sighting in used if _without_server(sighting)]
    for place in {sighting.at for sighting in mine}:
        pod = place.partition(" ")[0]
        ended = [sighting for sighting in recorded.by_place[place] if _without_server(sighting)]
        failed = [sighting for sighting in ended if sighting.facts.get("failure")]
        opened = {
            sighting.flow
            for sighting in recorded.by_place.get(pod, ())
            if sighting.event == "opening"
            and sighting.facts.get("outgoing") == "true"
            and sighting.facts.get("tap") == f"{pod}.eth0"
            and sighting.flow is not None
            and sighting.flow.protocol == TCP
            and sighting.flow not in recorded.accounted
            and sighting.flow not in known
            and sighting.time >= ended[0].time
        }
        if len(failed) == len(opened) == len(ended) == 1:
            found |= opened
            continue
        for target in {_target(one.flow) for one in mine if one.at == place}:
            aimed = {flow for flow in opened if _target(flow) == target}
            if len(aimed) == sum(_target(one.flow) == target for one in ended) == 1:
                found |= aimed
    return found


def _target(flow: FiveTuple | None) -> tuple[str, int] | None:
    return (flow.dst, flow.dport) if flow is not None else None


def _without_server(sighting: Sighting) -> bool:
    """Say whether a sidecar's log tells of a connection that it could not set up towards the server, or not in time.

    Of one whose client left before that Envoy names no failure.
    """
    sidecar = sighting.witness == "log" and sighting.at.endswith(f" {SIDECAR}")
    return sidecar and sighting.onward is None and sighting.event == "connection"


def _less_former_ends(sightings: Iterable[Sighting]) -> Iterator[Sighting]:
    """Yield sightings, less the late end of a connection that had the same 5-tuple before this one began.

    Where a pool has few ports, one is used again as soon as it is free, while the server writes that the first is over.
    """
    found = list(sightings)
    began = {
        (one.at, one.flow, one.facts["conn"])
        for one in found
        if one.witness == "log" and one.event != "close" and "conn" in one.facts
    }
    again = {(at, flow) for at, flow, _ in began}
    for one in found:
        own = (one.at, one.flow, one.facts.get("conn"))
        if one.event != "close" or own in began or own[:2] not in again:
            yield one


def _through_forward_proxy(
    node: str, known: set[FiveTuple], sightings: Sequence[Sighting], addresses: Sequence[object]
) -> tuple[list[Sighting], list[str]]:
    """Join a proxy that logs the client's address but no ports: by elimination within what was recorded."""
    own = {str(address) for address in addresses}
    arrived = [
        sighting
        for sighting in sightings
        if sighting.event == "opening" and sighting.flow and sighting.flow.dst in own
    ]
    ours = [sighting for sighting in arrived if sighting.flow in known]
    if not ours:
        return [], []
    clients = {sighting.flow.src for sighting in ours if sighting.flow}
    logged = [
        sighting
        for sighting in sightings
        if sighting.witness == "log" and sighting.flow and sighting.flow.src in clients
    ]
    connections = {sighting.facts.get("connection") for sighting in logged}
    others = [sighting for sighting in arrived if sighting.flow not in known]
    if others or len(connections) > len(ours):
        return [], [f"{node}: {len(others)} other connections at the same time, and its log names no ports"]
    left = [
        sighting
        for sighting in sightings
        if sighting.event == "opening" and sighting.flow and sighting.flow.src in own
    ]
    return logged + left, []


def unaccounted(strays: Iterable[Sighting], recorded: Recorded) -> tuple[Sighting, ...]:
    """Return those strays that these records do not account for either: others' come late, or came before."""
    return tuple(stray for stray in strays if stray.flow not in recorded.accounted)


def _strays(
    attempt: Attempt, known: set[FiveTuple], recorded: Recorded, opened: Sequence[Sighting]
) -> tuple[Sighting, ...]:
    """Return openings that left a proxy (`opened`) without any record of whom they were for.

    A connection that a proxy opens is accounted for by its log, or by conntrack when the node only translated it.
    """
    strays = [stray for stray in opened if stray.time >= attempt.started and stray.flow not in known]
    # a gateway's node gives what it opened another address, by which hops further on know it
    onward, seen = recorded.follow({stray.flow for stray in strays if stray.flow})
    further = [s for s in seen.values() if s.event in OPENINGS and s.flow in onward and s not in strays]
    return (*strays, *further)


def _opened_by_proxies(recorded: Recorded, plan: Plan, bindings: Bindings) -> list[Sighting]:
    """Return the openings of proxies, sidecars among them, that no record accounts for."""
    proxies: set[str] = set()
    for (name, pool), address in bindings.inside.items():
        proxies.add(str(address))
        pools = getattr(plan.node(name).spec, "snat_pools", {})
        proxies |= {str(member) for member in pools.get(pool, ())}
    for node in (*plan.of_kind("egress-proxy"), *plan.of_kind("egress-gateway")):
        proxies |= {str(address) for address in bindings.all_addresses(node)}
    # on its own host a proxy and its server talk over loopback, an address that every node has
    hosts = tuple(node.name for node in plan.of_kind("mesh-host"))
    sidecars = {node.name for node in plan.of_kind("sidecar")}
    return [
        sighting
        for sighting in recorded.unaccounted
        if sighting.flow is not None
        and (
            sighting.flow.src in proxies
            or _within(sighting, hosts)
            or (sighting.at in sidecars and _is_from_own_sidecar(sighting))
        )
    ]


def _within(sighting: Sighting, hosts: Sequence[str]) -> bool:
    """Tell whether a connection over loopback was seen at one of these hosts, or at a hop within it."""
    flow = sighting.flow
    return flow is not None and flow.src == _LOOPBACK and sighting.at.partition("/")[0] in hosts
