"""IPv6 beside IPv4: each address of a network or pool with a second range (`cidr6`) has a twin there.

The twin has the same number within its range as the IPv4 address within its own, so that whoever knows the one knows
the other. A pool's blocks have twins of the same size (Calico's default too: /122 beside /26).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from harness import lookup

if TYPE_CHECKING:
    from harness.lab_model import Cluster, Lab

    Found = Iterator[tuple[tuple[str | int, ...], str]]

NAME = "ipv6.{}"
"""By this name a node outside is known by its IPv6 address only, as ipv6.google.com is."""

EVERY_ADDRESS = ("0.0.0.0", "[::]")  # noqa: S104 - a server's own node has one way in
"""What a server listens on, of IPv4 and of IPv6."""

_UNIQUE_LOCAL, _GLOBAL = IPv6Network("fc00::/7"), IPv6Network("2000::/3")
_IPV4_BITS, _IPV6_BITS = 32, 128


def is_dual(lab: Lab) -> bool:
    """Say whether anything of a lab has IPv6 addresses."""
    return any(six is not None for _, six in _ranges(lab))


def twin(address: IPv4Address, lab: Lab) -> IPv6Address | None:
    """Return the IPv6 address of whatever has this IPv4 address, None where its range has no second one."""
    for cidr, six in _ranges(lab):
        if address in cidr:
            number = int(address) - int(cidr.network_address)
            return None if six is None else six.network_address + number
    return None


def twin_network(network: IPv4Network, lab: Lab) -> IPv6Network | None:
    """Return the IPv6 twin of a network, a pool or a block, None where there is none.

    A network's or pool's own is its whole `cidr6`, a part's is as large as the part.
    """
    for cidr, six in _ranges(lab):
        if six is not None and network == cidr:
            return six
    address = twin(network.network_address, lab)
    return None if address is None else IPv6Network((address, _IPV6_BITS - _IPV4_BITS + network.prefixlen))


def twins(addresses: Iterable[IPv4Address], lab: Lab) -> dict[IPv4Address, IPv6Address]:
    """Return the twins of those addresses that have one."""
    found = ((address, twin(address, lab)) for address in addresses)
    return {address: six for address, six in found if six is not None}


def forwards(kind: str) -> bool:
    """Say whether nodes of a kind forward IPv6 too: those that filter IPv4 only do not."""
    return bool(getattr(lookup.find("nodes", kind), "FORWARDS_IPV6", False))


def check(lab: Lab) -> Found:
    """Yield what is wrong with second ranges, and where something of the lab would let IPv6 past."""
    taken: list[tuple[str, IPv6Network]] = []
    places: list[tuple[tuple[str, ...], str, IPv4Network, IPv6Network | None]] = [
        (("networks", name, "cidr6"), f"network {name!r}", one.cidr, one.cidr6)
        for name, one in lab.networks.items()
    ]
    pools = lab.cluster.pools if lab.cluster is not None else {}
    places += [
        (("cluster", "pools", name, "cidr6"), f"pool {name!r}", one.cidr, one.cidr6)
        for name, one in pools.items()
    ]
    for place, what, cidr, six in places:
        if six is None:
            continue
        if six.num_addresses < cidr.num_addresses:
            yield place, f"{six} is smaller than {cidr}, each address of which has a twin in it"
        if not (six.subnet_of(_UNIQUE_LOCAL) or six.subnet_of(_GLOBAL)):
            yield place, f"{six} is neither unique local (fc00::/7) nor global (2000::/3)"
        for other, known in taken:
            if six.overlaps(known):
                yield place, f"{what} ({six}) overlaps {other} ({known})"
        taken.append((what, six))
    if lab.cluster is not None and any(pool.cidr6 is not None for pool in pools.values()):
        yield from _cluster(lab.cluster, lab)


def _cluster(cluster: Cluster, lab: Lab) -> Found:
    """Yield where pods' IPv6 would go round what holds for their IPv4."""
    for name, pool in cluster.pools.items():
        place = ("cluster", "pools", name, "cidr6")
        if pool.cidr6 is None:
            continue
        if pool.encapsulation == "ipip":
            yield place, "IP-in-IP carries IPv4 only; VXLAN carries both"
        if cluster.bgp is not None:
            yield place, "BGP here announces IPv4 only; leave out 'bgp', or the second range"
        if lab.mesh.provider != "none":
            yield place, "sidecars here intercept IPv4 only, and IPv6 would go round them"
        way = cluster.egress.primary if cluster.egress is not None else None
        if way is not None and way.network in lab.networks and lab.networks[way.network].cidr6 is None:
            yield (
                place,
                f"the pods' way out, {way.network!r}, has no IPv6; theirs would leave by the node's own",
            )


def _ranges(lab: Lab) -> Iterator[tuple[IPv4Network, IPv6Network | None]]:
    yield from ((network.cidr, network.cidr6) for network in lab.networks.values())
    if lab.cluster is not None:
        yield from ((pool.cidr, pool.cidr6) for pool in lab.cluster.pools.values())
