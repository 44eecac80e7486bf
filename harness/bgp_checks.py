"""What must hold of a cluster's BGP peers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness import lookup
from harness.lab_words import seconds_of
from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.lab_model import Lab, Peer

SPEAKERS = ("egress-proxy", "router")
"""The kinds of outside node that can be peers."""

_SHORTEST_HOLD = 3
_LONGEST = {"hold_time": 65535, "graceful_restart": 4095}
"""In seconds: 16 bits of RFC 4271 section 4.2, 12 bits of RFC 4724 section 3."""

_FASTEST_BFD, _SLOWEST_BFD = 0.01, 60
_Found = Iterator[tuple[tuple[str | int, ...], str]]


def check(lab: Lab) -> _Found:
    """Yield everything that is wrong with the peers of a lab's cluster."""
    bgp = lab.cluster.bgp if lab.cluster else None
    seen: dict[str, str] = {}
    for name, peer in (bgp.peers if bgp else {}).items():
        place = ("cluster", "bgp", "peers", name)
        able = [other for other, spec in lab.outside.items() if spec.kind in SPEAKERS]
        if peer.node not in lab.outside:
            yield (*place, "node"), f"unknown outside node {peer.node!r}; {nearest(peer.node, able)}"
        elif peer.node not in able:
            kind = lab.outside[peer.node].kind
            yield (
                (*place, "node"),
                f"{peer.node!r} is of kind {kind}, which speaks no BGP; {' and '.join(SPEAKERS)} do",
            )
        elif seen.setdefault(peer.node, name) != name:
            yield (*place, "node"), f"{peer.node!r} is peer {seen[peer.node]!r} already"
        elif not _is_reached(peer.node, lab):
            yield (*place, "node"), f"there is no way from the cluster's nodes to {peer.node!r}"
        for key, message in _times(peer):
            yield (*place, *key), message


def _times(peer: Peer) -> _Found:
    for key, most in _LONGEST.items():
        if seconds_of(getattr(peer, key)) > most:
            yield (key,), f"{getattr(peer, key)} is too long; BGP has room for {most}s"
        elif seconds_of(getattr(peer, key)) % 1:
            yield (key,), f"{getattr(peer, key)} is no whole number of seconds, as BGP has them"
    if seconds_of(peer.hold_time) < _SHORTEST_HOLD:
        yield ("hold_time",), f"{peer.hold_time} is too short; a hold time is at least {_SHORTEST_HOLD}s"
    if peer.bfd is not None and not _FASTEST_BFD <= seconds_of(peer.bfd.interval) <= _SLOWEST_BFD:
        yield ("bfd", "interval"), f"{peer.bfd.interval} is no interval from 10ms to {_SLOWEST_BFD}s"


def _is_reached(name: str, lab: Lab) -> bool:
    """Tell whether networks and routers lead from the cluster's network to a node."""
    if lab.cluster is None:
        return False
    found = [lab.cluster.network]
    for network in found:
        for spec in lab.outside.values():
            if network in spec.on and lookup.find("nodes", spec.kind).FORWARDS:
                found += [other for other in spec.on if other not in found]
    return any(network in found for network in lab.outside[name].on)
