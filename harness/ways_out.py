"""Every way out that a lab's pods have, as flows to try: each outside address and port, each service that leads out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness import lookup
from harness.listening import listening
from harness.one_flow import behind
from harness.route_checks import GATEWAYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Address

    from harness.plan import Node, Plan
    from harness.running import RunningLab

DNS_PORT = 53
_CLOSED_PORTS = (9, 7, 13)
"""Discard, echo, daytime (RFC 863, 862, 867): the first of them on which nothing listens stands for closed ports."""

NOT_TRIED = (
    "from gateways' own pods: a connection of theirs that is in no log of theirs would count as their proxy's",
    "source addresses that are not the pod's own: a probe binds only what its pod has",
    "IPv6: labs have IPv4 only, and it is switched off in every node",
    "ICMP: what is recorded of address translation is TCP's and UDP's, so its way could not be told behind a node",
    "protocols other than TCP and UDP",
    "UDP through a sidecar: it takes TCP only, so there is one way for UDP",
)
"""What is not tried in any lab, and why."""


@dataclass(frozen=True, order=True)
class Target:
    """Where a flow is sent: an address of an outside node, a service's name, or through one to a node's name.

    `ends` are the nodes where it would arrive.
    """

    scheme: Literal["tcp", "udp"]
    host: str
    port: int
    ends: tuple[str, ...]
    state: Literal["listening", "closed", "any", "service"] = "any"
    through: str | None = None

    def __str__(self) -> str:
        where = f"{self.scheme} {self.host}:{self.port}"
        names = "" if self.host in self.ends else f" ({', '.join(self.ends)})"
        closed = " closed" if self.state == "closed" else ""
        return where + names + closed + (f" through {self.through}" if self.through else "")


@dataclass(frozen=True, order=True)
class Way:
    """One attempt: a pod, a target, and whether the flow goes round the pod's sidecar (False where it has none)."""

    target: Target
    pod: str
    bypass: bool


def ways(lab: RunningLab) -> tuple[Way, ...]:
    """Return every way out, from every pod but gateways; raises LostEvidence when a node cannot be asked."""
    found: list[Way] = []
    every = (*_addresses(lab), *_services(lab))
    for node in lab.plan.pods:
        if node.pod is None or node.pod.spec.runs in GATEWAYS:
            continue
        for target in every:
            redirected = node.pod.injected and target.scheme == "tcp"
            found += [
                Way(target, node.name, bypass) for bypass in ((False, True) if redirected else (False,))
            ]
    return tuple(found)


def _addresses(lab: RunningLab) -> Iterator[Target]:
    """Yield every address of every outside node: each port on which it listens, a closed one, and DNS."""
    for node in lab.plan.nodes:
        if node.placement != "outside":
            continue
        sockets = listening(lab, node.name)
        for address in _held(node, lab):
            here = [(protocol, port) for protocol, port, at in sockets if at.is_unspecified or at == address]
            ends, host = (node.name,), str(address)
            for protocol, port in dict.fromkeys(here):
                yield Target("tcp" if protocol == "tcp" else "udp", host, port, ends, "listening")
            closed = next(port for port in _CLOSED_PORTS if ("tcp", port) not in here)
            yield Target("tcp", host, closed, ends, "closed")
            if ("udp", DNS_PORT) not in here:
                yield Target("udp", host, DNS_PORT, ends)


def _held(node: Node, lab: RunningLab) -> Sequence[IPv4Address]:
    """Return the addresses of a node: of its networks, and what its kind claims beside."""
    held = list(lab.bindings.all_addresses(node))
    for kind in node.kinds:
        claims = getattr(lookup.find("nodes", kind), "claims", None)
        held += [address for _, address in claims(node.spec)] if claims else []
    return list(dict.fromkeys(held))


def _services(lab: RunningLab) -> Iterator[Target]:
    """Yield each service that leads out, and through those before a forward proxy each port of each outside node."""
    plan = lab.plan
    for full, service in plan.services.items():
        namespace, _, name = full.partition("/")
        ends = tuple(end for end in dict.fromkeys(behind(service, lab)) if end in plan.lab.outside)
        if not ends:
            continue
        host = f"{name}.{namespace}"
        yield Target("tcp", host, service.port, ends, "service")
        if any(plan.lab.outside[end].kind == "forward-proxy" for end in ends):
            for other, port in _served(plan, lab, ends):
                yield Target("tcp", other, port, (other,), "service", f"{host}:{service.port}")


def _served(plan: Plan, lab: RunningLab, apart: Sequence[str]) -> Iterator[tuple[str, int]]:
    for name in plan.lab.outside:
        if name not in apart:
            ports = {port for protocol, port, _ in listening(lab, name) if protocol == "tcp"}
            yield from ((name, port) for port in sorted(ports))
