"""What a lab file's pools and ways out mean for a pod and for a node."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.lab import Cluster, Pod, Way


@dataclass(frozen=True)
class Shim:
    """A macvlan interface of a cluster node, on a card of its own in a network, with its address if it is declared."""

    network: str
    name: str
    address: IPv4Address | None = None


def ways_out(cluster: Cluster | None) -> tuple[tuple[str, Way], ...]:
    """Return the ways of a cluster to its gateway, by the kind of interface that each is for."""
    egress = cluster.egress if cluster else None
    both = (("primary", egress.primary), ("secondary", egress.secondary)) if egress else ()
    return tuple((kind, way) for kind, way in both if way is not None)


def shims_of(node: str, cluster: Cluster) -> tuple[Shim, ...]:
    """Return a cluster node's shims."""
    return tuple(Shim(way.network, way.shim, way.addresses.get(node)) for _, way in ways_out(cluster))


def pool_of(pod: str, cluster: Cluster) -> str:
    """Return the name of the pool that a pod's address is from: the one of its namespace, or the first."""
    namespace = pod.partition("/")[0]
    bound = (name for name, pool in cluster.pools.items() if namespace in pool.namespaces)
    return next(bound, next(iter(cluster.pools)))


def is_watched(pod: Pod, cluster: Cluster) -> bool:
    """Tell whether a pod is led to the gateway: its namespace is watched, and its labels are those that are wanted."""
    egress = cluster.egress
    if egress is None or (egress.watch and pod.namespace not in egress.watch):
        return False
    return egress.pods is None or egress.pods.matches(pod.labels)
