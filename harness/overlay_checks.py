"""What must hold of the overlay between the cluster's nodes, and of the sizes of packets; and its fixed numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness import dual_stack, lookup

if TYPE_CHECKING:
    from harness.lab_model import Cluster, Lab
    from harness.pool_model import Overlay, Pool

    Found = Iterator[tuple[tuple[str | int, ...], str]]

OVERLAY_VNI = 4096
"""The VNI of Calico's VXLAN (FelixConfiguration, vxlanVNI); its port is IANA's 4789 (RFC 7348)."""

OVERHEAD = {"none": 0, "vxlan": 50, "ipip": 20}
"""What an overlay adds to an IP packet, in bytes.

VXLAN: inner Ethernet 14, VXLAN 8, UDP 8, outer IPv4 20 (RFC 7348, section 5). IP-in-IP: outer IPv4 (RFC 2003).
"""


def encapsulations(cluster: Cluster) -> tuple[Overlay, ...]:
    """Return what pods' packets are wrapped in, of all pools; each once, and without `none`."""
    found = dict.fromkeys(pool.encapsulation for pool in cluster.pools.values())
    return tuple(one for one in found if one != "none")


def overhead(cluster: Cluster) -> int:
    """Return by how many bytes pods' packets are shorter than the nodes' network allows: for the longest overlay.

    Calico has one MTU for all pods too (projectcalico.docs, "Configure MTU to maximize network performance").
    """
    return max(OVERHEAD[one] for one in ("none", *encapsulations(cluster)))


def pools_with_ends(cluster: Cluster) -> tuple[str, ...]:
    """Return the names of the pools of which every node has a block, be it only for its end of an overlay."""
    return tuple(dict.fromkeys(filter(None, (pool_with(one, cluster) for one in encapsulations(cluster)))))


def pool_with(encapsulation: Overlay, cluster: Cluster) -> str | None:
    """Return the name of the pool from which nodes' ends of such an overlay have their addresses, if there is any."""
    return next((name for name, one in cluster.pools.items() if one.encapsulation == encapsulation), None)


def tunnel_taps(node: str, lab: Lab) -> tuple[str, ...]:
    """Return what the taps of a node's tunnels are called behind `NODE.`: its end of an overlay, and of mirrors."""
    if lab.cluster is not None and node in lab.cluster.nodes:
        return encapsulations(lab.cluster)
    spec = lab.outside.get(node)
    own = getattr(lookup.find("nodes", spec.kind), "taps", None) if spec else None
    return tuple(own(spec)) if own else ()


def check(lab: Lab) -> Found:
    """Yield what is wrong with overlays and MTUs."""
    for node, spec in lab.outside.items():
        for network, attachment in spec.on.items():
            if message := _too_long(network, attachment.mtu, lab):
                yield ("outside", node, "on", network, "mtu"), message
    if lab.cluster is not None:
        yield from _cluster(lab.cluster, lab)
    yield from dual_stack.check(lab)


def _cluster(cluster: Cluster, lab: Lab) -> Found:
    for node, attachment in cluster.nodes.items():
        if message := _too_long(cluster.network_of(node), attachment.mtu, lab):
            yield ("cluster", "nodes", node, "mtu"), message
    yield from _networks(cluster, lab)
    for name, pool in cluster.pools.items():
        for key, message in _pool(pool, cluster):
            yield ("cluster", "pools", name, key), message


def _networks(cluster: Cluster, lab: Lab) -> Found:
    """Yield what is wrong with nodes that are on other networks than the cluster's own."""
    for node, attachment in cluster.nodes.items():
        network, place = attachment.network, ("cluster", "nodes", node, "network")
        if network is None or network == cluster.network or network not in lab.networks:
            continue
        if cluster.bgp is not None:
            yield (
                place,
                "BGP here is between nodes of one network; leave out 'bgp', or the node's own network",
            )
        if network not in _joined(cluster.network, lab):
            yield place, f"no node outside forwards between {cluster.network!r} and {network!r}"


def _joined(network: str, lab: Lab) -> list[str]:
    """Return the networks that nodes outside join to a network, itself before all."""
    found = [network]
    for one in found:
        for spec in lab.outside.values():
            if one in spec.on and lookup.find("nodes", spec.kind).FORWARDS:
                found += [other for other in spec.on if other not in found]
    return found


def _pool(pool: Pool, cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a pool's overlay: the key, and what."""
    if pool.fallback is not None and pool.overlay != "ipip":
        yield "fallback", "a fallback is for an overlay that kernels may lack: ipip"
    if pool.overlay == "none":
        if "mode" in pool.model_fields_set and pool.mode != "Never":
            yield "mode", f"'mode: {pool.mode}' says when packets are wrapped, and 'overlay' not in what"
        return
    if pool.mode == "Never":
        return
    if cluster.bgp is not None:
        yield "overlay", "an overlay's routes are static, not BGP's; leave out 'bgp', or the overlay"
    if pool.block == 32:
        yield (
            "overlay",
            "an overlay takes the first address of each block, so a block must have more than one",
        )
    if pool.overlay in cluster.networks:
        yield "overlay", f"a network called {pool.overlay!r} cannot be told from the overlay at a tap"


def _too_long(network: str, mtu: int | None, lab: Lab) -> str | None:
    limit = lab.networks[network].mtu if network in lab.networks else None
    if mtu is None or limit is None or mtu <= limit:
        return None
    return f"an MTU of {mtu} is more than network {network!r} passes on ({limit})"
