"""Plan -> Bindings: this driver decides every address itself, the same ones each time."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from harness.drivers.netns.sandbox import PRIVATE
from harness.errors import InputError
from harness.plan import Bindings, Plan

_INSIDE = IPv4Network("100.64.0.0/16")
"""Where egress proxies bind before SNAT; shared address space that no lab network may use (RFC 6598)."""


def bind(plan: Plan, python: tuple[str, ...] = ("python3",)) -> Bindings:
    """Assign addresses: declared ones first, then the next free one of each network, in the lab file's order.

    Raises InputError when a network or pool has none left.
    """
    addresses: dict[tuple[str, str], IPv4Address] = {}
    taken: dict[str, set[IPv4Address]] = {name: set(_reserved(plan, name)) for name in plan.lab.networks}
    for node in plan.nodes:
        for network, address in node.on:
            if address is not None:
                addresses[node.name, network] = address
                taken[network].add(address)
    for node in plan.nodes:
        for network, address in node.on:
            if address is None:
                free = _next_free(plan.lab.networks[network].cidr, taken[network], f"network {network!r}")
                addresses[node.name, network] = free
                taken[network].add(free)
    pods, blocks = _pods(plan)
    return Bindings(addresses, pods, blocks, _cluster_ips(plan), _inside(plan), PRIVATE, python)


def _reserved(plan: Plan, network: str) -> Iterator[IPv4Address]:
    """Yield what a lab file writes down: virtual servers, SNAT pools; and the first host, by habit a gateway's."""
    cidr = plan.lab.networks[network].cidr
    yield cidr.network_address + 1
    for node in plan.of_kind("egress-proxy"):
        for server in getattr(node.spec, "virtual_servers", {}).values():
            yield IPv4Address(server.listen.rpartition(":")[0])
        yield from chain.from_iterable(getattr(node.spec, "snat_pools", {}).values())


def _next_free(cidr: IPv4Network, taken: set[IPv4Address], what: str) -> IPv4Address:
    for host in cidr.hosts():
        if host not in taken:
            return host
    raise InputError(f"{what} ({cidr}) has no free address left")


def _pods(plan: Plan) -> tuple[dict[str, IPv4Address], dict[str, tuple[IPv4Network, ...]]]:
    """Give each node a block of the pool and each pod an address of its node's block (Calico IPAM)."""
    cluster = plan.lab.cluster
    if cluster is None:
        return {}, {}
    pool = next(iter(cluster.pools.values()))
    free = pool.cidr.subnets(new_prefix=max(pool.block, pool.cidr.prefixlen))
    blocks: dict[str, list[IPv4Network]] = {node.name: [next(free)] for node in plan.cluster_nodes}
    # a block's first address is left out where it has others, as it would be a network's
    first = 1 if pool.block < 32 else 0
    used: dict[str, int] = dict.fromkeys(blocks, first)
    pods: dict[str, IPv4Address] = {}
    for node in plan.pods:
        host = node.host or ""
        if used[host] >= blocks[host][-1].num_addresses:
            block = next(free, None)
            if block is None:
                raise InputError(f"the pool {pool.cidr} has no block left for node {host!r}")
            blocks[host].append(block)
            used[host] = first
        pods[node.name] = blocks[host][-1].network_address + used[host]
        used[host] += 1
    return pods, {host: tuple(found) for host, found in blocks.items()}


def _cluster_ips(plan: Plan) -> dict[str, IPv4Address]:
    cluster = plan.lab.cluster
    if cluster is None:
        return {}
    pinned = {service.cluster_ip for service in plan.services.values() if service.cluster_ip}
    found: dict[str, IPv4Address] = {}
    taken = {address for address in pinned if address} | {cluster.services_cidr.network_address + 1}
    for name, service in plan.services.items():
        address = service.cluster_ip or _next_free(cluster.services_cidr, taken, "services_cidr")
        found[name] = address
        taken.add(address)
    return found


def _inside(plan: Plan) -> dict[tuple[str, str], IPv4Address]:
    hosts = _INSIDE.hosts()
    return {
        (node.name, pool): next(hosts)
        for node in plan.of_kind("egress-proxy")
        for pool in getattr(node.spec, "snat_pools", {})
    }
