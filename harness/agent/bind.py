"""Plan -> Bindings: this driver decides every address itself, the same ones each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import chain, product
from types import MappingProxyType

from harness.agent.folders import PRIVATE
from harness.dual_stack import twins
from harness.egress_ways import pool_of
from harness.errors import InputError
from harness.lab import Pool
from harness.overlay_checks import pools_with_ends
from harness.plan import Bindings, Node, Plan

_INSIDE = IPv4Network("100.64.0.0/16")
"""Where egress proxies bind before SNAT; shared address space that no lab network may use (RFC 6598)."""


def bind(
    plan: Plan,
    python: tuple[str, ...] = ("python3",),
    earlier: Bindings | None = None,
    pinned: Mapping[str, IPv4Address] = MappingProxyType({}),
    moved: str | None = None,
) -> Bindings:
    """Assign addresses: declared ones first, then the next free one of each network, in the lab file's order.

    Nodes, services and pools that `earlier` bindings know keep what they have; `pinned` gives pods an address
    of their own node's blocks; a `moved` cluster node takes a block that nobody has, and all of its pods other
    addresses. Raises InputError when a network or pool has none left.
    """
    old = earlier or Bindings({}, {}, {}, {}, {}, PRIVATE)
    addresses: dict[tuple[str, str], IPv4Address] = {}
    taken: dict[str, set[IPv4Address]] = {name: set(_reserved(plan, name)) for name in plan.lab.networks}
    for node in plan.nodes:
        for network, declared in node.places:
            address = declared or old.addresses.get((node.name, network))
            if address is not None and address in plan.lab.networks[network].cidr:
                addresses[node.name, network] = address
                taken[network].add(address)
    for node in plan.nodes:
        for network, _ in node.places:
            if (node.name, network) not in addresses:
                free = _next_free(plan.lab.networks[network].cidr, taken[network], f"network {network!r}")
                addresses[node.name, network] = free
                taken[network].add(free)
    pods, blocks = _pods(plan, old, pinned, moved)
    cluster_ips = _cluster_ips(plan, old.cluster_ips)
    second = _second(plan, old.second, taken)
    inside = _inside(plan, old.inside)
    sixes = twins((*addresses.values(), *pods.values(), *second.values()), plan.lab)
    found = Bindings(addresses, pods, blocks, cluster_ips, inside, PRIVATE, python, second)
    return replace(found, logs_secrets=old.logs_secrets, sixes=sixes)


def _reserved(plan: Plan, network: str) -> Iterator[IPv4Address]:
    """Yield what a lab file writes down: virtual servers, SNAT pools; and the first host, by habit a gateway's.

    Pods' second interfaces are among it: their networks give them addresses when all nodes have theirs.
    """
    cidr = plan.lab.networks[network].cidr
    yield cidr.network_address + 1
    for pod in plan.pods:
        if pod.pod and pod.pod.spec.net1 and pod.pod.spec.net1.address:
            yield pod.pod.spec.net1.address
    for node in plan.nodes:
        for server in getattr(node.spec, "virtual_servers", {}).values():
            yield IPv4Address(server.listen.rpartition(":")[0])
        yield from chain.from_iterable(getattr(node.spec, "snat_pools", {}).values())


def _next_free(cidr: IPv4Network, taken: set[IPv4Address], what: str) -> IPv4Address:
    for host in cidr.hosts():
        if host not in taken:
            return host
    raise InputError(f"{what} ({cidr}) has no free address left")


def with_block(plan: Plan, bindings: Bindings, node: str) -> Bindings:
    """Give a node one block more; raises InputError when the pool has none left."""
    cluster = plan.lab.cluster
    if cluster is None:
        raise InputError("the lab has no cluster, and so no blocks")
    free = _free_blocks(next(iter(cluster.pools.values())), bindings)
    added = _next_block(free, next(iter(cluster.pools.values())).cidr, node)
    return replace(bindings, blocks=bindings.blocks | {node: (*bindings.blocks[node], added)})


def without_block(plan: Plan, bindings: Bindings, node: str) -> Bindings:  # noqa: ARG001 - with_block's form
    """Take the last block from a node that has no pods; raises InputError when every block of it has some."""
    empty = [
        block
        for block in bindings.blocks[node]
        if not any(address in block for address in bindings.pods.values())
    ]
    if not empty:
        raise InputError(f"{node} has no block without pods")
    left = tuple(block for block in bindings.blocks[node] if block != empty[-1])
    return replace(bindings, blocks=bindings.blocks | {node: left})


def _free_blocks(pool: Pool, old: Bindings) -> Iterator[IPv4Network]:
    used = {block for blocks in old.blocks.values() for block in blocks}
    prefix = max(pool.block, pool.cidr.prefixlen)
    return (block for block in pool.cidr.subnets(new_prefix=prefix) if block not in used)


def _pods(
    plan: Plan, old: Bindings, pinned: Mapping[str, IPv4Address], moved: str | None
) -> tuple[dict[str, IPv4Address], dict[str, tuple[IPv4Network, ...]]]:
    """Give each node a block of the pool and each pod an address of its node's block (Calico IPAM)."""
    cluster = plan.lab.cluster
    if cluster is None:
        return {}, {}
    free = {name: _free_blocks(pool, old) for name, pool in cluster.pools.items()}
    first = next(iter(cluster.pools))
    kept = {node: found for node, found in old.blocks.items() if node != moved}
    blocks = {
        node.name: list(kept.get(node.name, ()))
        or [_next_block(free[first], cluster.pools[first].cidr, node.name)]
        for node in plan.cluster_nodes
    }
    for host, name in product(blocks, pools_with_ends(cluster)):
        cidr = cluster.pools[name].cidr
        if not any(block.subnet_of(cidr) for block in blocks[host]):
            blocks[host].append(_next_block(free[name], cidr, host))
    pods = {
        node.name: pinned.get(node.name) or old.pods[node.name]
        for node in plan.pods
        if node.name in pinned or _stays(node, old, blocks, cluster.pools[pool_of(node.name, cluster)].cidr)
    }
    taken = set(pods.values())
    for node in plan.pods:
        if node.name in pods:
            continue
        host, name = node.host or "", pool_of(node.name, cluster)
        pool = cluster.pools[name]
        # a block's first address is left out where it has others, as it would be a network's
        begin = 1 if pool.block < 32 else 0
        own = (block for block in blocks[host] if block.subnet_of(pool.cidr))
        every = (block[number] for block in own for number in range(begin, block.num_addresses))
        address = next((address for address in every if address not in taken), None)
        if address is None:
            blocks[host].append(_next_block(free[name], pool.cidr, host))
            address = blocks[host][-1][begin]
        pods[node.name] = address
        taken.add(address)
    in_order = {node.name: pods[node.name] for node in plan.pods}
    return in_order, {host: tuple(found) for host, found in blocks.items()}


def _second(
    plan: Plan, old: Mapping[str, IPv4Address], taken: Mapping[str, set[IPv4Address]]
) -> dict[str, IPv4Address]:
    """Give pods' second interfaces addresses of their networks."""
    found: dict[str, IPv4Address] = {}
    for node in plan.pods:
        net1 = node.pod.spec.net1 if node.pod else None
        if net1 is None:
            continue
        cidr = plan.lab.networks[net1.network].cidr
        before = old.get(node.name)
        known = net1.address or (before if before is not None and before in cidr else None)
        found[node.name] = known or _next_free(
            cidr, {*taken[net1.network], *found.values(), *old.values()}, f"network {net1.network!r}"
        )
    return found


def _next_block(free: Iterator[IPv4Network], pool: IPv4Network, node: str) -> IPv4Network:
    block = next(free, None)
    if block is None:
        raise InputError(f"the pool {pool} has no block left for node {node!r}")
    return block


def _stays(node: Node, old: Bindings, blocks: Mapping[str, list[IPv4Network]], pool: IPv4Network) -> bool:
    """Tell whether a pod had an address before, on the node where it is now and of the pool that is its own."""
    address = old.pods.get(node.name)
    return (
        address is not None
        and address in pool
        and any(address in block for block in blocks.get(node.host or "", ()))
    )


def _cluster_ips(plan: Plan, old: Mapping[str, IPv4Address]) -> dict[str, IPv4Address]:
    cluster = plan.lab.cluster
    if cluster is None:
        return {}
    found = {
        name: address
        for name, service in plan.services.items()
        if (address := service.cluster_ip or old.get(name)) is not None
    }
    taken = {*found.values(), cluster.services_cidr.network_address + 1}
    for name in plan.services:
        if name not in found:
            found[name] = _next_free(cluster.services_cidr, taken, "services_cidr")
            taken.add(found[name])
    return {name: found[name] for name in plan.services}


def _inside(plan: Plan, old: Mapping[tuple[str, str], IPv4Address]) -> dict[tuple[str, str], IPv4Address]:
    free = (host for host in _INSIDE.hosts() if host not in set(old.values()))
    return {
        (node.name, pool): old.get((node.name, pool)) or next(free)
        for node in plan.of_kind("egress-proxy")
        for pool in getattr(node.spec, "snat_pools", {})
    }
