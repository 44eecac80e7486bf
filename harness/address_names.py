"""The names of a lab's addresses: those by which nodes outside know what is in the cluster, and those for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from harness.lab import pod_host
from harness.plan import CLUSTER_DOMAIN, Bindings, Plan
from harness.route_checks import GATEWAY


def entrances(plan: Plan, bindings: Bindings) -> dict[str, IPv4Address]:
    """Return the address at which each host of the routes is reached from outside: that of its gateway's node.

    A gateway that a step deleted takes its hosts along.
    """
    nodes = {pod.name: plan.node(pod.host or "") for pod in plan.of_kind(GATEWAY)}
    return {
        host: bindings.address(nodes[route.gateway])
        for route in plan.lab.routes.values()
        for host in route.hosts
        if route.gateway in nodes
    }


def pod_names(plan: Plan, bindings: Bindings) -> dict[str, IPv4Address]:
    """Return the names by which nodes outside know pods, where BGP brings their addresses there.

    `POD.NAMESPACE.pod`: Kubernetes has `pod` in names of pods too, with the address in place of the name
    (Kubernetes DNS-Based Service Discovery, 1.2, section 2.4).
    """
    cluster = plan.lab.cluster
    if cluster is None or cluster.bgp is None or not cluster.bgp.peers:
        return {}
    return {pod_host(node.name): bindings.pods[node.name] for node in plan.pods if node.pod is not None}


def readable_names(plan: Plan, bindings: Bindings) -> Mapping[IPv4Address, Sequence[str]]:
    """Return what each address of a lab is called in a capture, most telling first.

    A node with one address is called by its name, with several as its taps are (`firewall.dmz`); a pod `POD.NAMESPACE`.
    """
    found: dict[IPv4Address, list[str]] = {}
    for name, address in _named(plan, bindings):
        known = found.setdefault(address, [])
        if name not in known:
            known.append(name)
    return found


def _named(plan: Plan, bindings: Bindings) -> Iterator[tuple[str, IPv4Address]]:
    for node in plan.nodes:
        if node.name in bindings.pods:
            namespace, _, pod = node.name.partition("/")
            yield f"{pod}.{namespace}", bindings.pods[node.name]
            if node.name in bindings.second:
                yield f"net1.{pod}.{namespace}", bindings.second[node.name]
        for network, _ in node.places:
            name = f"{node.name}.{network}" if len(node.places) > 1 else node.name
            yield name, bindings.addresses[node.name, network]
        for name, server in getattr(node.spec, "virtual_servers", {}).items():
            yield f"{name}.{node.name}", IPv4Address(server.listen.rpartition(":")[0])
        for pool, members in getattr(node.spec, "snat_pools", {}).items():
            yield from ((f"snat-{pool}.{node.name}", address) for address in members)
            if (node.name, pool) in bindings.inside:
                yield f"before-snat-{pool}.{node.name}", bindings.inside[node.name, pool]
    for full, address in bindings.cluster_ips.items():
        namespace, _, name = full.partition("/")
        yield f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}", address
