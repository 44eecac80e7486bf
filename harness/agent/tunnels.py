"""Tunnels: the overlay between the cluster's nodes as Calico makes it, and mirrors of pods' ports. Pure.

A VXLAN device has the first address of its node's first block that is for it, and a MAC of its own; every other node
knows both, and at which node they are: nothing is learned, nothing is asked (Calico, felix's vxlan_mgr.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Self

from harness.agent import interfaces
from harness.agent.layout import LARGE, Neighbour, Route, Tunnel
from harness.lab import Pool
from harness.overlay_checks import OVERHEAD, OVERLAY_VNI, encapsulations, overhead, pool_with
from harness.plan import Bindings, Mirror, Node, Plan, Runtime
from harness.pool_model import Overlay

DEVICE = "vxlan.calico"
IPIP_DEVICE = "ipip.calico"
"""Calico's is `tunl0`, which is there by itself where the kernel has IP-in-IP, and answers to every address."""
_PORT = 100
"""In MACs: apart from every real port of a node."""
_ALL_OTHERS = "00:00:00:00:00:00"
_LONGEST = 9216
"""The MTU of what sends mirrored frames: they are never too long for it, however long for the way."""


@dataclass(frozen=True)
class Tunnels:
    """The tunnels of a lab, and the sizes of packets that follow from them; `mirrors` each with the host they go to."""

    plan: Plan
    bindings: Bindings
    mirrors: tuple[tuple[Node, Mirror], ...]

    @classmethod
    def of(cls, plan: Plan, bindings: Bindings, runtimes: Mapping[str, Runtime]) -> Self:
        """Return the tunnels of a plan whose nodes run this."""
        found = tuple((node, one) for node in plan.nodes for one in runtimes[node.name].mirrors)
        return cls(plan, bindings, found)

    @property
    def pod_mtu(self) -> int:
        """The MTU of pods: what the nodes' networks pass on, less what an overlay adds."""
        cluster = self.plan.lab.cluster
        return self._passed_on - (overhead(cluster) if cluster is not None else 0)

    @property
    def whole(self) -> bool:
        """Whether frames may be longer than on a wire: not where they are wrapped or copied, and sizes matter.

        Nor in a large lab, whose rings have small blocks.
        """
        if len(self.plan.nodes) > LARGE:
            return False
        cluster = self.plan.lab.cluster
        return not ((cluster is not None and encapsulations(cluster)) or self.mirrors)

    @property
    def _passed_on(self) -> int:
        """The longest packet that every network of the cluster's nodes passes on."""
        cluster = self.plan.lab.cluster
        return (
            min((self.plan.lab.networks[one].mtu for one in cluster.networks), default=1500)
            if cluster
            else 1500
        )

    def mtu(self, node: Node, network: str) -> int:
        """Return the MTU of a node's interface on a network: its own, or the network's."""
        lab = self.plan.lab
        if node.placement == "cluster-node" and lab.cluster is not None:
            own = lab.cluster.nodes[node.name].mtu
        else:
            own = lab.outside[node.name].on[network].mtu
        return own or lab.networks[network].mtu

    def devices(self, node: Node) -> tuple[Tunnel, ...]:
        """Return a node's VXLAN devices: its end of the overlay, of mirrors that it sends, of those that it gets."""
        found = [self._vxlan(node)] if self._has_end(node, "vxlan") else []
        found += [self._ipip(node)] if self._has_end(node, "ipip") else []
        pods = {pod.name for pod in self.plan.pods if pod.host == node.name}
        found += [self._sender(node, host, one) for host, one in self.mirrors if one.pod in pods]
        found += [self._receiver(node, one) for host, one in self.mirrors if host == node]
        return tuple(found)

    def neighbours(self, node: Node) -> tuple[Neighbour, ...]:
        """Return what a cluster node knows of the others' ends of the overlay."""
        if not self._has_end(node, "vxlan"):
            return ()
        return tuple(
            Neighbour(DEVICE, self._end(other, "vxlan"), _mac(other)) for other in self._others(node)
        )

    def route(self, node: Node, other: Node, block: IPv4Network) -> Route | None:
        """Return a node's route to a block of another through an overlay, None where packets go as they are."""
        cluster = self.plan.lab.cluster
        pool = self._pool_of(block)
        if cluster is None or pool is None or pool.encapsulation == "none":
            return None
        if pool.mode == "CrossSubnet" and cluster.network_of(node.name) == cluster.network_of(other.name):
            return None
        if pool.encapsulation == "ipip":  # the next hop is the outer packet's destination
            return Route(str(block), gateway=self._local(other), device=IPIP_DEVICE, onlink=True)
        return Route(str(block), gateway=self._end(other, "vxlan"), device=DEVICE, onlink=True)

    def copies_of(self, pod: Node) -> tuple[str, ...]:
        """Return the devices of a pod's node that get a copy of all that passes the pod's port."""
        return tuple(_device(host, one) for host, one in self.mirrors if one.pod == pod.name)

    def _pool_of(self, block: IPv4Network) -> Pool | None:
        cluster = self.plan.lab.cluster
        return (
            next((pool for pool in cluster.pools.values() if block.subnet_of(pool.cidr)), None)
            if cluster
            else None
        )

    def _has_end(self, node: Node, encapsulation: str) -> bool:
        cluster = self.plan.lab.cluster
        return (
            node.placement == "cluster-node"
            and cluster is not None
            and encapsulation in encapsulations(cluster)
        )

    def _others(self, node: Node) -> list[Node]:
        return [one for one in self.plan.cluster_nodes if one != node]

    def _end(self, node: Node, encapsulation: Overlay) -> str:
        """Return the address of a node's end of an overlay: the first of a block for it, which no pod gets."""
        cluster = self.plan.lab.cluster
        name = pool_with(encapsulation, cluster) if cluster else None
        if cluster is None or name is None:
            raise ValueError(f"the cluster's pools have no {encapsulation}")
        own = (
            block for block in self.bindings.blocks[node.name] if block.subnet_of(cluster.pools[name].cidr)
        )
        return str(next(own).network_address)

    def _vxlan(self, node: Node) -> Tunnel:
        return Tunnel(
            name=DEVICE,
            mac=_mac(node),
            vni=OVERLAY_VNI,
            local=self._local(node),
            mtu=self._passed_on - OVERHEAD["vxlan"],
            ends=tuple((_mac(other), self._local(other)) for other in self._others(node)),
            addresses=(f"{self._end(node, 'vxlan')}/32",),
            tap=f"{node.name}.vxlan",
        )

    def _ipip(self, node: Node) -> Tunnel:
        return Tunnel(
            name=IPIP_DEVICE,
            mac="",
            vni=0,
            local=self._local(node),
            mtu=self._passed_on - OVERHEAD["ipip"],
            addresses=(f"{self._end(node, 'ipip')}/32",),
            tap=f"{node.name}.ipip",
            kind="ipip",
        )

    def _sender(self, node: Node, host: Node, one: Mirror) -> Tunnel:
        return self._mirror(node, host, one, host, f"{node.name}.{_device(host, one)}")

    def _receiver(self, node: Node, one: Mirror) -> Tunnel:
        sender = self.plan.node(self.plan.node(one.pod).host or "")
        return self._mirror(node, node, one, sender, f"{node.name}.{one.name}")

    def _mirror(self, node: Node, host: Node, one: Mirror, other: Node, tap: str) -> Tunnel:
        """Return a node's end of a mirror's tunnel; the `other` node is the host that it goes to, or the pod's."""
        device, sends = _device(host, one), node != host
        tunnel = Tunnel(
            device,
            interfaces.mac(f"{node.name} {device}", _PORT, 0),
            one.vni,
            self._local(node),
            _LONGEST,
            tap=tap,
            kind=one.tunnel,
        )
        if one.tunnel == "geneve":
            return replace(tunnel, remote=self._local(other))
        return replace(tunnel, ends=((_ALL_OTHERS, self._local(other)),) if sends else ())

    def _local(self, node: Node) -> str:
        """Return a node's tunnel end point: its address on its own node network, a host's on the cluster's."""
        cluster = self.plan.lab.cluster
        if cluster is None:
            raise ValueError("tunnels are the cluster's")
        network = cluster.network_of(node.name) if node.placement == "cluster-node" else cluster.network
        return str(self.bindings.addresses[node.name, network])


def _device(host: Node, mirror: Mirror) -> str:
    return f"mirror{interfaces.digest(f'{host.name} {mirror.name}')[:8]}"


def _mac(node: Node) -> str:
    return interfaces.mac(node.name, _PORT, 1)
