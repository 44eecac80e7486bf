"""Mistakes of a cluster and of routing: masquerading, BGP, which pods leave by the gateway, single routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.mutation import REMOVED, Loc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from ipaddress import IPv4Network

    from harness.plan import Bindings, Plan
    from harness.routing import KernelRoute

_WRITTEN_BY_OTHERS = ("kernel", "bird")
"""Routes of a node's own networks come with its addresses; those that BIRD learned come with its sessions."""


def edits(plan: Plan) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    """Yield what may be wrong with pools, with BGP, and with the way out by a gateway."""
    cluster = plan.lab.cluster
    if cluster is None:
        return
    hosts = tuple(node.name for node in plan.cluster_nodes)
    for name, pool in cluster.pools.items():
        what = "not masqueraded" if pool.nat_outgoing else "masqueraded"
        yield ("cluster", "pools", name, "nat_outgoing"), what, not pool.nat_outgoing, hosts
        for mode in sorted(
            {"Always", "CrossSubnet", "Never"} - {pool.mode} if pool.overlay != "none" else ()
        ):
            yield ("cluster", "pools", name), f"mode {mode}", pool.model_copy(update={"mode": mode}), hosts
    if cluster.bgp is not None:
        loc = ("cluster", "bgp", "mesh")
        yield loc, "no mesh" if cluster.bgp.mesh else "a full mesh", not cluster.bgp.mesh, hosts
        for name, peer in cluster.bgp.peers.items():
            yield ("cluster", "bgp", "peers", name), "removed", REMOVED, (peer.node, *hosts)
    if cluster.egress is not None:
        yield from _egress(plan, hosts)


def _egress(plan: Plan, hosts: tuple[str, ...]) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    cluster = plan.lab.cluster
    egress = cluster.egress if cluster else None
    if egress is None:
        return
    here: Loc = ("cluster", "egress")
    for index in range(len(egress.watch) if len(egress.watch) > 1 else 0):
        yield (*here, "watch", index), f"{egress.watch[index]} is not watched", REMOVED, hosts
    if egress.pods is not None and egress.watch:
        yield (*here, "pods"), "whatever their labels", None, hosts
    for namespace in plan.lab.namespaces if egress.watch else ():
        if namespace not in egress.watch:
            yield (*here, "watch"), f"{namespace} is watched too", (*egress.watch, namespace), hosts
    others = {"regular", "secureSPK"} if egress.mode == "pseudoCNI" else {"pseudoCNI"}
    for mode in sorted(others):
        if (mode == "regular" or egress.secondary) and (mode == "secureSPK" or egress.primary):
            yield (*here, "mode"), f"{mode} in place of {egress.mode}", mode, hosts
    for fault, what in (
        ("no-direct-rules", "no rules for what is within the cluster"),
        ("no-guard", "nothing keeps pods from leaving by their node"),
    ):
        yield here, what, egress.model_copy(update={"fault": fault}), hosts


def written(plan: Plan, routes: Mapping[str, Sequence[KernelRoute]]) -> Iterator[tuple[str, IPv4Network]]:
    """Yield each route that the lab has written, as (node, destination), of all nodes but pods.

    A pod has one, its default route; without it nothing is reached at all.
    """
    for node in plan.nodes:
        if node.placement != "pod":
            for route in routes.get(node.name, ()):
                if route.protocol not in _WRITTEN_BY_OTHERS:
                    yield node.name, route.destination


def named(destination: IPv4Network, plan: Plan, bindings: Bindings) -> str:
    """Return what a route leads to, in the lab's words."""
    for name, address in bindings.pods.items():
        if destination.prefixlen == destination.max_prefixlen and address in destination:
            return name
    for name, network in plan.lab.networks.items():
        if network.cidr == destination:
            return name
    for node, blocks in bindings.blocks.items():
        if destination in blocks:
            number = f" {blocks.index(destination) + 1}" if len(blocks) > 1 else ""
            return f"{node}'s block{number}"
    cluster = plan.lab.cluster
    for name, pool in cluster.pools.items() if cluster else ():
        if pool.cidr == destination:
            return f"pool {name}"
    return str(destination)
