"""What must hold of a cluster's pools, of its way out through a gateway, and of pods' second interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.lookup import nearest

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from harness.egress_model import Egress, Holds, SecondInterface, Way
    from harness.lab_model import Cluster, Lab, Workload

_Found = Iterator[tuple[tuple[str | int, ...], str]]

_WAYS = {"regular": ("primary",), "secureSPK": ("secondary",), "pseudoCNI": ("primary", "secondary")}
GATEWAY = "gateway"
_LAST_PORT = 65535


def check(lab: Lab) -> _Found:
    """Yield everything that is wrong with pools' namespaces, the way out and second interfaces."""
    cluster = lab.cluster
    if cluster is None:
        return
    yield from _pools(cluster, lab)
    if cluster.egress is not None:
        for place, message in _egress(cluster.egress, cluster, lab):
            yield ("cluster", "egress", *place), message
    for namespace, tenant in lab.namespaces.items():
        for name, workload in tenant.workloads.items():
            if workload.holds is not None:
                for place, message in _holds(workload.holds, workload, lab):
                    yield ("namespaces", namespace, "workloads", name, "holds", *place), message
            if workload.net1 is not None:
                for place, message in _second(workload.net1, workload, cluster, lab):
                    yield ("namespaces", namespace, "workloads", name, "net1", *place), message


def claims(lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str, IPv4Address]]:
    """Yield the addresses that are declared of shims and second interfaces: place, whose, address."""
    egress = lab.cluster.egress if lab.cluster else None
    for kind in ("primary", "secondary"):
        way: Way | None = getattr(egress, kind, None)
        if way is not None:
            for node, address in way.addresses.items():
                yield ("cluster", "egress", kind, "addresses", node), f"{way.shim!r} of {node!r}", address
    for namespace, tenant in lab.namespaces.items():
        for name, workload in tenant.workloads.items():
            if workload.net1 is not None and workload.net1.address is not None:
                place = ("namespaces", namespace, "workloads", name, "net1", "address")
                yield place, f"'net1' of '{namespace}/{name}'", workload.net1.address


def _pools(cluster: Cluster, lab: Lab) -> _Found:
    bound: dict[str, str] = {}
    for name, pool in cluster.pools.items():
        for index, namespace in enumerate(pool.namespaces):
            place = ("cluster", "pools", name, "namespaces", index)
            if namespace not in lab.namespaces:
                known = nearest(namespace, list(lab.namespaces))
                yield place, f"unknown namespace {namespace!r}; {known}"
            elif bound.setdefault(namespace, name) != name:
                yield place, f"the pods of {namespace!r} are in pool {bound[namespace]!r} already"


def _egress(egress: Egress, cluster: Cluster, lab: Lab) -> _Found:
    if not egress.watch and egress.pods is None:
        yield (), "say whose pods are led to the gateway: namespaces ('watch'), labels ('pods'), or both"
    for index, namespace in enumerate(egress.watch):
        if namespace not in lab.namespaces:
            known = nearest(namespace, list(lab.namespaces))
            yield ("watch", index), f"unknown namespace {namespace!r}; {known}"
    gateways = [name for name, spec in lab.outside.items() if spec.kind == GATEWAY]
    if egress.gateway not in gateways:
        yield ("gateway",), f"unknown gateway {egress.gateway!r}; {nearest(egress.gateway, gateways)}"
    yield from _ways(egress, cluster, lab)


def _ways(egress: Egress, cluster: Cluster, lab: Lab) -> _Found:
    wanted = _WAYS[egress.mode]
    given = [kind for kind in ("primary", "secondary") if getattr(egress, kind) is not None]
    for kind in wanted:
        if kind not in given:
            yield (), f"mode {egress.mode} routes {kind} interfaces; say their way ({kind!r})"
    for kind in given:
        if kind not in wanted:
            yield (kind,), f"mode {egress.mode} does not route {kind} interfaces"
        for place, message in _way(getattr(egress, kind), egress, cluster, lab):
            yield (kind, *place), message
    if egress.primary is not None and egress.secondary is not None:
        for key in ("network", "shim", "table"):
            if getattr(egress.primary, key) == getattr(egress.secondary, key):
                yield ("secondary", key), f"the way of primary interfaces has this {key} already"


def _way(way: Way, egress: Egress, cluster: Cluster, lab: Lab) -> _Found:
    if way.network not in lab.networks:
        yield ("network",), f"unknown network {way.network!r}; {nearest(way.network, list(lab.networks))}"
        return
    if way.network in cluster.networks:
        yield ("network",), f"{way.network!r} is the nodes' own network; a shim's is another"
    gateway = lab.outside.get(egress.gateway)
    if gateway is not None and gateway.kind == GATEWAY and way.network not in gateway.on:
        yield ("network",), f"the gateway {egress.gateway!r} is not on {way.network!r}"
    if way.shim.startswith(("eth", "cali")) or way.shim in ("lo", "net1"):
        yield ("shim",), f"{way.shim!r} is the name of another kind of interface; choose another name"
    for node, address in way.addresses.items():
        if node not in cluster.nodes:
            known = nearest(node, list(cluster.nodes))
            yield ("addresses", node), f"unknown cluster node {node!r}; {known}"
        if address not in lab.networks[way.network].cidr:
            cidr = lab.networks[way.network].cidr
            yield ("addresses", node), f"{address} is outside network {way.network!r} ({cidr})"


def _holds(holds: Holds, workload: Workload, lab: Lab) -> _Found:
    if workload.runs != "client":
        yield (), f"'holds' is for a workload that runs client; this one runs {workload.runs}"
    target, _, port = holds.to.rpartition(":")
    if target not in lab.outside:
        yield ("to",), f"unknown outside node {target!r}; {nearest(target, list(lab.outside))}"
    elif not 1 <= int(port) <= _LAST_PORT:
        yield ("to",), f"port {port} is out of range; a port is 1 to {_LAST_PORT}"


def _second(net1: SecondInterface, workload: Workload, cluster: Cluster, lab: Lab) -> _Found:
    secondary = cluster.egress.secondary if cluster.egress else None
    if secondary is None or net1.network != secondary.network:
        cards = [secondary.network] if secondary else []
        known = f"the nodes have a card in {cards[0]!r} only" if cards else "the nodes have no card for it"
        yield ("network",), f"{known} ('cluster.egress.secondary')"
    elif net1.address is not None and net1.address not in lab.networks[net1.network].cidr:
        cidr = lab.networks[net1.network].cidr
        yield ("address",), f"{net1.address} is outside network {net1.network!r} ({cidr})"
    if net1.address is not None and len(workload.versions) > 1:
        yield ("address",), f"{net1.address} cannot be the address of {len(workload.versions)} pods"
    for index, network in enumerate(net1.toward):
        if network not in lab.networks:
            known = nearest(network, list(lab.networks))
            yield ("toward", index), f"unknown network {network!r}; {known}"
        elif network == net1.network:
            yield ("toward", index), f"{network!r} is the network that it is on"
