"""The boxes of a lab's picture: what stands in each, in which row, and from which rows lines lead to networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.lab import Service
from harness.plan import Bindings, Node, Plan

CHAR, ROW_HEIGHT, PAD, GAP = 7.3, 19, 10, 26
"""In pixels: width of a letter (monospace of 12 pixels, rounded up), height of a row, inside and outside of boxes."""


@dataclass(frozen=True)
class Box:
    """A box with a name and rows of text; `ports` are the rows that lines to networks begin at, and whose they are.

    It is about a node, and `inside` says which row another one has in it.
    """

    name: str
    rows: tuple[str, ...]
    ports: tuple[tuple[str, int, str], ...] = ()
    about: str = ""
    inside: tuple[tuple[str, int], ...] = ()

    @property
    def within(self) -> tuple[tuple[str, int], ...]:
        """All nodes that stand in it, and their rows."""
        return ((self.about, -1), *self.inside) if self.about else ()

    @property
    def width(self) -> float:
        """In pixels."""
        return max(len(text) for text in (self.name, *self.rows)) * CHAR + 2 * PAD

    @property
    def height(self) -> float:
        """In pixels."""
        return (1 + len(self.rows)) * ROW_HEIGHT + PAD


def named(node: Node, bindings: Bindings) -> str:
    """Return a node of the cluster, or a pod, with its address."""
    beside = " + sidecar" if "sidecar" in node.kinds else ""
    return f"{node.name}{beside} {bindings.address(node)}"


def kind_of(node: Node) -> str:
    """Return what a node is, an egress proxy with its engine."""
    engine = getattr(node.spec, "engine", None)
    return " ".join(node.kinds) + (f" ({engine})" if engine else "")


def cluster_box(node: Node, plan: Plan, bindings: Bindings) -> Box:
    """Return the box of a cluster node: its shims and its pods."""
    rows: list[str] = []
    ports = [(network, -1, node.name) for network, _ in node.on]
    for shim in node.shims:
        ports.append((shim.network, len(rows), node.name))
        rows.append(f"{shim.name} {shim.network} {bindings.addresses[node.name, shim.network]}")
    inside = []
    for pod in plan.pods:
        if pod.host == node.name:
            inside.append((pod.name, len(rows)))
            rows.append(named(pod, bindings))
            for network in second_networks(pod):
                ports.append((network, len(rows), pod.name))
                rows.append(f"  net1 {network} {bindings.second[pod.name]}")
    return Box(named(node, bindings), tuple(rows), tuple(ports), node.name, tuple(inside))


def second_networks(pod: Node) -> Iterator[str]:
    """Yield the network of a pod's second interface, if it has one."""
    net1 = getattr(pod.spec, "net1", None)
    if net1 is not None:
        yield net1.network


def outside_box(node: Node, bindings: Bindings) -> Box:
    """Return the box of a node outside: its addresses, virtual servers and SNAT pools."""
    networks = [network for network, _ in node.on]
    rows = [kind_of(node), *(f"{network} {bindings.addresses[node.name, network]}" for network in networks)]
    for name, server in getattr(node.spec, "virtual_servers", {}).items():
        rows.append(f"{name}: {server.listen} to {server.forward_to}")
    for pool, members in getattr(node.spec, "snat_pools", {}).items():
        rows.append(f"SNAT {pool}: {', '.join(map(str, members))}")
    ports = tuple((network, 1 + row, node.name) for row, network in enumerate(networks))
    return Box(node.name, tuple(rows), ports, node.name)


def services_box(plan: Plan, bindings: Bindings) -> Box:
    """Return the box of all services: each with its address and endpoints."""
    rows: list[str] = []
    for name, service in plan.services.items():
        rows.append(f"{name}:{service.port} {bindings.cluster_ips.get(name, '')}".rstrip())
        rows += [f"  to {endpoint}" for endpoint in endpoints_of(service, plan)]
    return Box("services", tuple(rows))


def endpoints_of(service: Service, plan: Plan) -> Iterator[str]:
    """Yield a service's endpoints: pods that its selector means, or what the lab file says."""
    if service.selector is not None:
        for node in plan.pods:
            pod = node.pod
            labels = (pod.namespace, pod.workload) if pod else tuple(node.name.split("/"))
            if labels == (service.namespace, service.selector):
                yield node.name
    yield from service.endpoints


def baseline(row: int) -> float:
    """Return how far below a box's upper edge a row's text stands; the name is row -1."""
    return (row + 2) * ROW_HEIGHT - 3
