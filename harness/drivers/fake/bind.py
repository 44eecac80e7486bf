"""Plan -> Bindings as a cluster would hand them out: declared addresses as they are, all others scattered."""

from __future__ import annotations

import zlib
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from harness import lookup
from harness.errors import InputError
from harness.plan import Bindings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        for network, declared in node.on:
            address = declared or _scattered(
                f"{node.name} {network}", plan.lab.networks[network].cidr, taken[network]
            )
            addresses[node.name, network] = address
            taken[network].add(address)
    pods, blocks = _pods(plan)
    return Bindings(addresses, pods, blocks, _cluster_ips(plan), _inside(plan), DIRECTORY)


def _claimed(plan: Plan) -> Iterator[IPv4Address]:
    """Yield every address that the lab file writes down."""
    for node in plan.nodes:
        yield from (address for _, address in node.on if address is not None)
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
    pool = next(iter(cluster.pools.values()))
    prefix = max(pool.block, pool.cidr.prefixlen)
    size = 1 << (32 - prefix)
    numbers: set[int] = set()
    blocks: dict[str, list[IPv4Network]] = {}
    free: dict[str, int] = {}

    def take(host: str) -> None:
        count = pool.cidr.num_addresses // size
        wanted = zlib.crc32(f"block {host} {len(blocks.get(host, ()))}".encode())
        number = next((n for step in range(count) if (n := (wanted + step) % count) not in numbers), None)
        if number is None:
            raise InputError(f"the pool {pool.cidr} has no block left for node {host!r}")
        numbers.add(number)
        block = IPv4Network((int(pool.cidr.network_address) + number * size, prefix))
        blocks.setdefault(host, []).append(block)
        free[host] = max(1, size - 2)

    for node in plan.cluster_nodes:
        take(node.name)
    pods: dict[str, IPv4Address] = {}
    taken: set[IPv4Address] = set()
    for node in plan.pods:
        host = node.host or ""
        if not free[host]:
            take(host)
        pods[node.name] = _scattered(node.name, blocks[host][-1], taken)
        taken.add(pods[node.name])
        free[host] -= 1
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
