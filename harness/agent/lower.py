"""Plan + Bindings -> Layout: interfaces, addresses, routes and rules of each namespace. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

from harness import bird
from harness.address_names import entrances, pod_names
from harness.agent import interfaces
from harness.agent.layout import Layout, Neighbour, Nic, Route, Space
from harness.agent.sixes import POD_GATEWAY, with_sixes
from harness.agent.tunnels import Tunnels
from harness.dual_stack import NAME, twin
from harness.plan import Bindings, Node, Plan, Runtime

_SHIM = 64
"""From which number on hardware addresses are shims'; cards have smaller ones."""

_SYSCTLS = (
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.icmp_ratemask", "0"),  # a limited ICMP error would look like a silent drop
    # a port used again reopens the entry of a reset connection, 10 s long by default, and no event tells of it
    ("net.netfilter.nf_conntrack_tcp_timeout_close", "1"),
    ("net.netfilter.nf_conntrack_timestamp", "1"),  # events say when they happened, not when they were read
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
)


def lower(plan: Plan, bindings: Bindings, runtimes: dict[str, Runtime]) -> Layout:
    """Return what the lab process builds."""
    tunnels = Tunnels.of(plan, bindings, runtimes)
    spaces = tuple(_space(node, tunnels, runtimes[node.name]) for node in plan.nodes)
    taps = {(space.name, nic.name): nic.tap for space in spaces for nic in space.nics}
    taps |= {(space.name, tunnel.name): tunnel.tap for space in spaces for tunnel in space.tunnels}
    for space in spaces:
        for nic in space.nics:
            if nic.peer_space is not None and not nic.macvlan:
                taps[nic.peer_space, nic.peer_name] = f"{nic.peer_space}.{nic.peer_name}"
    outside = [node for node in plan.nodes if node.placement != "pod"]
    named = {node.name: bindings.address(node) for node in outside} | entrances(plan, bindings)
    named |= pod_names(plan, bindings)
    hosts = "".join(f"{address} {name}\n" for name, address in named.items())
    hosts += "".join(
        f"{six} {NAME.format(node.name)}\n"
        for node in outside
        if (six := twin(bindings.address(node), plan.lab)) is not None
    )
    return Layout(
        {name: (str(network.cidr), network.mtu) for name, network in plan.lab.networks.items()},
        spaces,
        hosts,
        taps,
    )


def _space(node: Node, tunnels: Tunnels, runtime: Runtime) -> Space:
    plan, bindings = tunnels.plan, tunnels.bindings
    pod = node.placement == "pod"
    nics = (
        (_pod_nic(node, tunnels), *_second_nics(node, plan, bindings)) if pod else tuple(_nics(node, tunnels))
    )
    etc = {
        file.path.removeprefix("etc/"): file.content for file in runtime.files if file.path.startswith("etc/")
    }
    hostname = node.name.partition("/")[2] if pod else node.name
    space = Space(
        name=node.name,
        hostname=hostname,
        pod=pod,
        nics=_with_extra(nics, plan, runtime),
        tunnels=tunnels.devices(node),
        loopback=tuple(f"{address}/32" for address in _on_loopback(node, plan, runtime)),
        routes=(*_pod_routes(), *_routes_by_second(node, plan, bindings))
        if pod
        else tuple(_routes(node, tunnels)),
        neighbours=_neighbours(node, plan, bindings) + tunnels.neighbours(node),
        sysctls=_SYSCTLS + (("net.ipv4.ip_forward", "1"),) * node.forwards + runtime.sysctls,
        rules=runtime.rules,
        etc=tuple(etc.items()),
        hosts=node.placement == "cluster-node",
    )
    return with_sixes(space, node, plan, bindings)


def _pod_nic(node: Node, tunnels: Tunnels) -> Nic:
    return Nic(
        name="eth0",
        mac=interfaces.mac(node.name, 0, 0),
        addresses=(f"{tunnels.bindings.pods[node.name]}/32",),
        peer_space=node.host,
        peer_name=interfaces.cali(node.name),
        peer_mac=interfaces.mac(node.name, 0, 1),
        tap=f"{node.name}.eth0",
        mtu=tunnels.pod_mtu,
        peer_mtu=tunnels.pod_mtu,
        whole=tunnels.whole,
        mirrors=tunnels.copies_of(node),
    )


def _nics(node: Node, tunnels: Tunnels) -> Iterator[Nic]:
    plan, bindings = tunnels.plan, tunnels.bindings
    for port, (network, _) in enumerate(node.on):
        prefix = plan.lab.networks[network].cidr.prefixlen
        yield Nic(
            name=f"eth{port}",
            mac=interfaces.mac(node.name, port, 0),
            addresses=(f"{bindings.addresses[node.name, network]}/{prefix}",),
            peer_space=None,
            peer_name=f"p{interfaces.digest(node.name)[:10]}.{port}",
            peer_mac=interfaces.mac(node.name, port, 1),
            bridge=network,
            tap=f"{node.name}.{network}",
            mtu=tunnels.mtu(node, network),
            peer_mtu=plan.lab.networks[network].mtu,
            whole=tunnels.whole,
        )
    for port, shim in enumerate(node.shims, start=len(node.on)):
        card = f"eth{port}"
        yield Nic(
            name=card,
            mac=interfaces.mac(node.name, port, 0),
            addresses=(),
            peer_space=None,
            peer_name=f"p{interfaces.digest(node.name)[:10]}.{port}",
            peer_mac=interfaces.mac(node.name, port, 1),
            bridge=shim.network,
            tap=f"{node.name}.{shim.network}",
            mtu=plan.lab.networks[shim.network].mtu,
            peer_mtu=plan.lab.networks[shim.network].mtu,
            whole=tunnels.whole,
        )
    for port, shim in enumerate(node.shims, start=len(node.on)):
        prefix = plan.lab.networks[shim.network].cidr.prefixlen
        yield Nic(
            name=shim.name,
            mac=interfaces.mac(node.name, port + _SHIM, 0),
            addresses=(f"{bindings.addresses[node.name, shim.network]}/{prefix}",),
            peer_space=node.name,
            peer_name=f"eth{port}",
            peer_mac="",
            tap=f"{node.name}.{shim.name}",
            macvlan=True,
        )


def _second_nics(node: Node, plan: Plan, bindings: Bindings) -> Iterator[Nic]:
    """Yield a pod's second interface: a macvlan on the card that its node has in that network."""
    net1 = node.pod.spec.net1 if node.pod else None
    if net1 is None or node.host is None:
        return
    host = plan.node(node.host)
    networks = [shim.network for shim in host.shims]
    prefix = plan.lab.networks[net1.network].cidr.prefixlen
    yield Nic(
        name="net1",
        mac=interfaces.mac(node.name, 1, 0),
        addresses=(f"{bindings.second[node.name]}/{prefix}",),
        peer_space=host.name,
        peer_name=f"eth{len(host.on) + networks.index(net1.network)}",
        peer_mac="",
        tap=f"{node.name}.net1",
        macvlan=True,
    )


def _routes_by_second(node: Node, plan: Plan, bindings: Bindings) -> Iterator[Route]:
    """Yield what a pod reaches by its second interface: by way of its node's shim, whose rules lead on."""
    net1 = node.pod.spec.net1 if node.pod else None
    for target in net1.toward if net1 else ():
        gateway = str(bindings.addresses[node.host or "", net1.network if net1 else ""])
        yield Route(str(plan.lab.networks[target].cidr), gateway=gateway, device="net1")


def _with_extra(nics: tuple[Nic, ...], plan: Plan, runtime: Runtime) -> tuple[Nic, ...]:
    """Put further addresses on the interface whose network they belong to, so that it answers ARP there."""
    found = []
    for nic in nics:
        extra = tuple(
            f"{address}/32"
            for address in runtime.addresses
            if nic.bridge is not None
            and address in plan.lab.networks[nic.bridge].cidr
            and all(not own.startswith(f"{address}/") for own in nic.addresses)
        )
        found.append(replace(nic, addresses=nic.addresses + extra))
    return tuple(found)


def _on_loopback(node: Node, plan: Plan, runtime: Runtime) -> list[IPv4Address]:
    cidrs = [plan.lab.networks[network].cidr for network, _ in node.on]
    return [address for address in runtime.addresses if not any(address in cidr for cidr in cidrs)]


def _pod_routes() -> tuple[Route, ...]:
    return (Route(f"{POD_GATEWAY}/32", device="eth0"), Route("0.0.0.0/0", gateway=POD_GATEWAY, device="eth0"))


def _routes(node: Node, tunnels: Tunnels) -> Iterator[Route]:
    plan, bindings = tunnels.plan, tunnels.bindings
    for pod in plan.pods:
        if pod.host == node.name:
            yield Route(f"{bindings.pods[pod.name]}/32", device=interfaces.cali(pod.name))
    yield from _routes_to_blocks(node, tunnels)
    yield from _routes_to_pods(node, plan, bindings)
    attached = {network for network, _ in node.on}
    for target in plan.lab.networks:
        if target not in attached and target not in {shim.network for shim in node.shims}:
            hop = next_hop(plan, attached, target)
            if hop is not None:
                router, network = hop
                gateway = str(bindings.addresses[router.name, network])
                yield Route(str(plan.lab.networks[target].cidr), gateway=gateway)


def _routes_to_blocks(node: Node, tunnels: Tunnels) -> Iterator[Route]:
    """Yield a cluster node's routes to the others' blocks; where BGP brings them, none is written."""
    plan, bindings = tunnels.plan, tunnels.bindings
    cluster = plan.lab.cluster
    if cluster is None or node.placement != "cluster-node":
        return
    if cluster.bgp and cluster.bgp.mesh:
        return
    for other in plan.cluster_nodes:
        if other.name == node.name:
            continue
        gateway = str(_hop_to_node(node, other, plan, bindings))
        for block in bindings.blocks[other.name]:
            yield tunnels.route(node, other, block) or Route(str(block), gateway=gateway)


def _hop_to_node(node: Node, other: Node, plan: Plan, bindings: Bindings) -> IPv4Address:
    """Return the next hop from one cluster node to another: itself, or a router where it is on another network."""
    attached = {network for network, _ in node.on}
    target = other.on[-1][0]
    hop = None if target in attached else next_hop(plan, attached, target)
    return bindings.addresses[hop[0].name, hop[1]] if hop else bindings.address(other)


def _routes_to_pods(node: Node, plan: Plan, bindings: Bindings) -> Iterator[Route]:
    """Yield what a node outside that speaks no BGP is told of pods: that a peer knows the way."""
    cluster = plan.lab.cluster
    if cluster is None or node.placement != "outside" or bird.runs_on(node, plan):
        return
    if cluster.egress is not None and cluster.egress.gateway == node.name:
        yield from _routes_by_shims(plan, bindings)
        return
    hop = _nearest_peer(node, plan)
    if hop is not None:
        for pool in cluster.pools.values():
            yield Route(str(pool.cidr), gateway=str(bindings.addresses[hop]))


def _routes_by_shims(plan: Plan, bindings: Bindings) -> Iterator[Route]:
    """Yield what a gateway is told of pods: that each node's are behind its shim."""
    for node in plan.cluster_nodes:
        for shim in node.shims[:1]:
            gateway = str(bindings.addresses[node.name, shim.network])
            for block in bindings.blocks[node.name]:
                yield Route(str(block), gateway=gateway)


def _nearest_peer(node: Node, plan: Plan) -> tuple[str, str] | None:
    """Return the node, and its network, by which a node outside reaches pods: a peer beside it, or the way to one.

    A peer further from the cluster's nodes is none: its way to them may lead back here.
    """
    own, attached = bird.distance(node, plan), {network for network, _ in node.on}
    speakers = [other for other in plan.nodes if other.placement == "outside" and bird.runs_on(other, plan)]
    known = [(bird.distance(peer, plan), peer) for peer in speakers]
    peers = [peer for number, peer in known if number is not None and own is not None and number <= own]
    beside = [(peer.name, name) for peer in peers for name, _ in peer.on if name in attached]
    ways = [next_hop(plan, attached, name) for peer in peers for name, _ in peer.on]
    further = [(router.name, network) for router, network in filter(None, ways)]
    return next(iter(beside + further), None)


def next_hop(plan: Plan, attached: set[str], target: str) -> tuple[Node, str] | None:
    """Return the router nearest to a network, and the network we reach it on; None when there is no way.

    Only outside nodes that forward carry traffic between networks; ties go to the order of the lab file.
    """
    routers = [node for node in plan.nodes if node.forwards and node.placement == "outside"]
    distance = {target: 0}
    frontier = [target]
    while frontier:
        nearer = frontier.pop(0)
        for router in routers:
            joined = [network for network, _ in router.on]
            if nearer not in joined:
                continue
            for network in joined:
                if network in attached and network not in distance:
                    return router, network
                if network not in distance:
                    distance[network] = distance[nearer] + 1
                    frontier.append(network)
    return None


def _neighbours(node: Node, plan: Plan, bindings: Bindings) -> tuple[Neighbour, ...]:
    """Tell pod and node each other's hardware address; asking for a proxied one takes up to a second."""
    if node.placement == "pod":
        return (Neighbour("eth0", POD_GATEWAY, interfaces.mac(node.name, 0, 1)),)
    return tuple(
        Neighbour(interfaces.cali(pod.name), str(bindings.pods[pod.name]), interfaces.mac(pod.name, 0, 0))
        for pod in plan.pods
        if pod.host == node.name
    )
