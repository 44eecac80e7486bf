"""IPv6 beside IPv4 in a layout: what a space has of IPv4, it has of IPv6 where that is in a range with a twin. Pure.

There is nothing to be discovered: no router is asked for, no address is made up or tried for a duplicate, and pods'
neighbours are written beforehand. On networks neighbours are asked for, as with ARP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_interface
from typing import TYPE_CHECKING

from harness import dual_stack
from harness.agent.layout import Neighbour, Nic, Route, Space, Tunnel

if TYPE_CHECKING:
    from harness.plan import Bindings, Node, Plan

POD_GATEWAY = "169.254.1.1"
"""Every pod's next hop, as Calico has it: a link-local address that its node answers for."""
_POD_GATEWAY6 = "fe80::ecee:eeff:feee:eeee"
"""The same of IPv6, as Calico has it."""

_SETTINGS = (
    ("accept_ra", "0"),
    ("accept_dad", "0"),
    (
        "addr_gen_mode",
        "0",
    ),  # link-local addresses by the MAC (RFC 4291, appendix A): these ask for neighbours
    ("disable_ipv6", "0"),
    ("keep_addr_on_down", "1"),  # as IPv4 does
)


def with_sixes(space: Space, node: Node, plan: Plan, bindings: Bindings) -> Space:
    """Return a node's part of the layout with IPv6 beside IPv4, as it is in a lab that has none."""
    if not dual_stack.is_dual(plan.lab):
        return space
    off = {f"net.ipv6.conf.{scope}.disable_ipv6" for scope in ("all", "default")}
    routed = any(dual_stack.forwards(kind) for kind in node.kinds)
    sysctls = (
        *(one for one in space.sysctls if one[0] not in off),
        *(
            (f"net.ipv6.conf.{scope}.{key}", value)
            for scope in ("all", "default")
            for key, value in _SETTINGS
        ),
        ("net.ipv6.conf.all.forwarding", str(int(routed))),
        ("net.ipv6.icmp.ratelimit", "0"),  # a limited ICMP error would look like a silent drop
    )
    twins = _Twins(node, plan, bindings)
    return replace(
        space,
        nics=tuple(twins.nic(nic) for nic in space.nics),
        tunnels=tuple(twins.tunnel(tunnel) for tunnel in space.tunnels),
        routes=(*space.routes, *twins.routes(space)),
        neighbours=(*space.neighbours, *twins.neighbours(space)),
        sysctls=sysctls,
    )


class _Twins:
    """IPv6 for IPv4, by the ranges of a lab."""

    def __init__(self, node: Node, plan: Plan, bindings: Bindings) -> None:
        self._node, self._lab, self._bindings = node, plan.lab, bindings
        # next hops that do not forward IPv6
        self._deaf = {
            str(bindings.addresses[node.name, network])
            for node in plan.nodes
            if node.placement == "outside" and not any(map(dual_stack.forwards, node.kinds))
            for network, _ in node.on
        }

    def nic(self, nic: Nic) -> Nic:
        return replace(nic, addresses=(*nic.addresses, *self._interfaces(nic.addresses)))

    def tunnel(self, tunnel: Tunnel) -> Tunnel:
        """Return a tunnel with an address in each block of its node that has a twin: an overlay's, if it has any."""
        ends = self._ends(self._node.name) if tunnel.addresses else []
        return replace(tunnel, addresses=(*tunnel.addresses, *(f"{end}/128" for end in ends)))

    def routes(self, space: Space) -> Iterator[Route]:
        own = any(self._interfaces(nic.addresses) for nic in space.nics)
        overlays = {tunnel.name for tunnel in space.tunnels}
        for route in space.routes:
            destination = self._destination(route.destination, pod=own)
            # through an overlay each block is behind its own first address, whoever has the end's of IPv4
            wrapped = destination is not None and route.device in overlays
            gateway = (destination or "").partition("/")[0] if wrapped else self._hop(route.gateway)
            if destination is None or (route.gateway is not None and gateway is None):
                continue
            if route.gateway not in self._deaf:
                yield replace(route, destination=destination, gateway=gateway)
        yield from self._to_pods()

    def neighbours(self, space: Space) -> Iterator[Neighbour]:
        overlays = {tunnel.name for tunnel in space.tunnels}
        for entry in space.neighbours:
            if entry.device in overlays:
                yield from (replace(entry, address=end) for end in self._ends(self._at_end(entry.address)))
            elif (address := self._hop(entry.address)) is not None:
                yield replace(entry, address=address)

    def _ends(self, node: str) -> list[str]:
        """Return the first addresses of a node's blocks, of those that have twins."""
        found = (dual_stack.twin_network(block, self._lab) for block in self._bindings.blocks.get(node, ()))
        return [str(six.network_address) for six in found if six is not None]

    def _at_end(self, address: str) -> str:
        """Return the node whose end of an overlay has an address of IPv4."""
        every = self._bindings.blocks.items()
        return next((n for n, blocks in every if address in {str(one.network_address) for one in blocks}), "")

    def _to_pods(self) -> Iterator[Route]:
        """Yield the way to pods for nodes beside the cluster's egress gateway, which may leave their addresses."""
        cluster = self._lab.cluster
        gateway = cluster.egress.gateway if cluster is not None and cluster.egress is not None else None
        if (
            cluster is None
            or gateway is None
            or self._node.placement != "outside"
            or self._node.name == gateway
        ):
            return
        own = [network for network, _ in self._node.on]
        shared = next((one for one in self._lab.outside[gateway].on if one in own), None)
        hop = self._bindings.sixes.get(self._bindings.addresses[gateway, shared]) if shared else None
        for pool in cluster.pools.values():
            if hop is not None and pool.cidr6 is not None:
                yield Route(str(pool.cidr6), gateway=str(hop))

    def _interfaces(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return `address/prefix` of the twins; an address for itself alone has a twin for itself alone."""
        found = []
        for text in addresses:
            interface = ip_interface(text)
            address = dual_stack.twin(IPv4Address(str(interface.ip)), self._lab)
            if address is None:
                continue
            alone = interface.network.prefixlen == 32
            network = (
                None if alone else dual_stack.twin_network(IPv4Network(str(interface.network)), self._lab)
            )
            found.append(f"{address}/{network.prefixlen if network is not None else 128}")
        return tuple(found)

    def _destination(self, text: str, *, pod: bool) -> str | None:
        if text == "0.0.0.0/0":
            return "::/0" if pod else None
        if text == f"{POD_GATEWAY}/32":
            return None  # a link-local next hop needs no route
        found = dual_stack.twin_network(IPv4Network(text), self._lab)
        return None if found is None else str(found)

    def _hop(self, text: str | None) -> str | None:
        if text is None:
            return None
        if text == POD_GATEWAY:
            return _POD_GATEWAY6
        found = dual_stack.twin(IPv4Address(text), self._lab)
        return None if found is None else str(found)
