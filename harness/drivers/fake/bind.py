"""Plan -> Bindings as a cluster would hand them out: declared addresses as they are, all others scattered."""

from __future__ import annotations

import zlib
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from harness import lookup
from harness.dual_stack import twins
from harness.egress_ways import pool_of
from harness.errors import InputError
from harness.overlay_checks import pools_with_ends
from harness.plan import Bindings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.plan import Plan

DIRECTORY = "/var/lib/egresslab"
_INSIDE = IPv4Network("100.127.0.0/16")


def bind(plan: Plan) -> Bindings:
    """Return addresses as if observed: declared ones as they are, all others scattered over their networks.

    Raises InputError when a network or pool has none left.
    """
    addresses: dict[tuple[str, str], IPv4Address] = {}
    taken: dict[str, set[IPv4Address]] = {name: set() for name in plan.lab.networks}
    for network, held in taken.items():
        held.update(address for address in _claimed(plan) if address in plan.lab.networks[network].cidr)
    for node in plan.nodes:
        for network, declared in node.places:
            address = declared or _scattered(
                f"{node.name} {network}", plan.lab.networks[network].cidr, taken[network]
            )
            addresses[node.name, network] = address
            taken[network].add(address)
    pods, blocks = _pods(plan)
    second = _second(plan, taken)
    sixes = twins((*addresses.values(), *pods.values(), *second.values()), plan.lab)
    inside = _inside(plan)
    return Bindings(
        addresses, pods, blocks, _cluster_ips(plan), inside, DIRECTORY, second=second, sixes=sixes
    )


def _second(plan: Plan, taken: Mapping[str, set[IPv4Address]]) -> dict[str, IPv4Address]:
    """Scatter pods' second interfaces over their networks."""
    found: dict[str, IPv4Address] = {}
    for node in plan.pods:
        net1 = node.pod.spec.net1 if node.pod else None
        if net1 is not None:
            cidr = plan.lab.networks[net1.network].cidr
            key = f"{node.name} net1"
            found[node.name] = net1.address or _scattered(
                key, cidr, taken[net1.network] | set(found.values())
            )
    return found


def _claimed(plan: Plan) -> Iterator[IPv4Address]:
    """Yield every address that the lab file writes down."""
    for node in plan.nodes:
        yield from (address for _, address in node.places if address is not None)
        if node.pod is not None and node.pod.spec.net1 is not None and node.pod.spec.net1.address is not None:
            yield node.pod.spec.net1.address
        for kind in node.kinds:
            claims = getattr(lookup.find("nodes", kind), "claims", None)
            if claims is not None:
                yield from (address for _, address in claims(node.spec))


def _scattered(key: str, cidr: IPv4Network, taken: set[IPv4Address]) -> IPv4Address:
    """Return a free host address of a network that depends on the key only, but for collisions."""
    first, last = (1, cidr.num_addresses - 2) if cidr.prefixlen < 31 else (0, cidr.num_addresses - 1)
    size = last - first + 1
    begin = zlib.crc32(key.encode())
    for step in range(size):
        address = cidr.network_address + first + (begin + step) % size
        if address not in taken:
            return address
    raise InputError(f"{cidr} has no free address left for {key}")


def _pods(plan: Plan) -> tuple[dict[str, IPv4Address], dict[str, tuple[IPv4Network, ...]]]:
    """Scatter nodes' blocks over the pool and pods over their node's blocks; a full node gets another block."""
    cluster = plan.lab.cluster
    if cluster is None:
        return {}, {}
    numbers: dict[str, set[int]] = {name: set() for name in cluster.pools}
    blocks: dict[str, list[IPv4Network]] = {}
    current: dict[tuple[str, str], IPv4Network] = {}
    free: dict[tuple[str, str], int] = {}

    def take(host: str, name: str) -> None:
        pool = cluster.pools[name]
        prefix = max(pool.block, pool.cidr.prefixlen)
        size = 1 << (32 - prefix)
        count = pool.cidr.num_addresses // size
        wanted = zlib.crc32(f"block {host} {len(blocks.get(host, ()))}".encode())
        every = ((wanted + step) % count for step in range(count))
        number = next((number for number in every if number not in numbers[name]), None)
        if number is None:
            raise InputError(f"the pool {pool.cidr} has no block left for node {host!r}")
        numbers[name].add(number)
        block = IPv4Network((int(pool.cidr.network_address) + number * size, prefix))
        blocks.setdefault(host, []).append(block)
        current[host, name] = block
        free[host, name] = max(1, size - 2)

    first = next(iter(cluster.pools))
    for node in plan.cluster_nodes:
        for name in dict.fromkeys((first, *pools_with_ends(cluster))):
            take(node.name, name)
    pods: dict[str, IPv4Address] = {}
    taken: set[IPv4Address] = set()
    for node in plan.pods:
        host, name = node.host or "", pool_of(node.name, cluster)
        if not free.get((host, name)):
            take(host, name)
        pods[node.name] = _scattered(node.name, current[host, name], taken)
        taken.add(pods[node.name])
        free[host, name] -= 1
    return pods, {host: tuple(found) for host, found in blocks.items()}


def _cluster_ips(plan: Plan) -> dict[str, IPv4Address]:
    cluster = plan.lab.cluster
    if cluster is None:
        return {}
    taken = {service.cluster_ip for service in plan.services.values() if service.cluster_ip}
    found: dict[str, IPv4Address] = {}
    for name, service in plan.services.items():
        found[name] = service.cluster_ip or _scattered(name, cluster.services_cidr, taken)
        taken.add(found[name])
    return found


def _inside(plan: Plan) -> dict[tuple[str, str], IPv4Address]:
    found: dict[tuple[str, str], IPv4Address] = {}
    for node in plan.of_kind("egress-proxy"):
        for pool in getattr(node.spec, "snat_pools", {}):
            found[node.name, pool] = _scattered(f"{node.name} {pool}", _INSIDE, set(found.values()))
    return found
