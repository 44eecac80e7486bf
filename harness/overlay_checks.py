"""What must hold of the overlay between the cluster's nodes, and of the sizes of packets; and its fixed numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness import lookup

if TYPE_CHECKING:
    from harness.lab_model import Cluster, Lab

    Found = Iterator[tuple[tuple[str | int, ...], str]]

OVERLAY_VNI = 4096
"""The VNI of Calico's VXLAN (FelixConfiguration, vxlanVNI); its port is IANA's 4789 (RFC 7348)."""
OVERHEAD = 50
"""What VXLAN adds to an IP packet: inner Ethernet 14, VXLAN 8, UDP 8, outer IPv4 20 bytes (RFC 7348, section 5)."""
OVERLAY_TAP = "vxlan"
"""The tap of a cluster node's VXLAN device, as `NODE.vxlan`."""


def overlaid(lab: Lab) -> bool:
    """Say whether pods reach each other through an overlay: all pools have it, or none."""
    return lab.cluster is not None and next(iter(lab.cluster.pools.values())).overlay == "vxlan"


def tunnel_taps(node: str, lab: Lab) -> tuple[str, ...]:
    """Return what the taps of a node's tunnels are called behind `NODE.`: its end of an overlay, and of mirrors."""
    if lab.cluster is not None and node in lab.cluster.nodes:
        return (OVERLAY_TAP,) if overlaid(lab) else ()
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


def _cluster(cluster: Cluster, lab: Lab) -> Found:
    for node, attachment in cluster.nodes.items():
        if message := _too_long(cluster.network, attachment.mtu, lab):
            yield ("cluster", "nodes", node, "mtu"), message
    first = next(iter(cluster.pools.values())).overlay
    for name, pool in cluster.pools.items():
        place = ("cluster", "pools", name, "overlay")
        if pool.overlay != first:
            yield place, f"the first pool's overlay is {first!r}; all pools of a lab have the same so far"
        if pool.overlay == "none":
            continue
        if cluster.bgp is not None:
            yield place, "an overlay's routes are static, not BGP's; leave out 'bgp', or the overlay"
        if pool.block == 32:
            yield (
                place,
                "an overlay takes the first address of each block, so a block must have more than one",
            )
        if cluster.network == OVERLAY_TAP:
            yield place, f"a network called {OVERLAY_TAP!r} cannot be told from the overlay at a tap"


def _too_long(network: str, mtu: int | None, lab: Lab) -> str | None:
    limit = lab.networks[network].mtu if network in lab.networks else None
    if mtu is None or limit is None or mtu <= limit:
        return None
    return f"an MTU of {mtu} is more than network {network!r} passes on ({limit})"
