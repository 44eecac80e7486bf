"""Layout -> kernel: namespaces held by descriptors, links, addresses, routes, rules, in batches."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import netlink
from harness.agent import syscalls as sys_
from harness.agent.children import Place, Worker
from harness.agent.folders import outermost
from harness.agent.layout import Layout, Nic, Route, Space, Tunnel
from harness.agent.pod import make_pod
from harness.agent.rules import LowNumbers, Rules

_LAST_GROUP = 2**31 - 1
_FIRST_NIC, _FIRST_TUNNEL, _FIRST_CALI, _FIRST_BRIDGE, _FIRST_PORT = 2, 500, 1000, 10, 1000


_MORE_RULES, _MOST_RULES = 64, 900
"""For how many spaces more than those with rules descriptors are kept back, and for how many in all."""


@dataclass
class Built:
    """A space that stands: its namespaces, a netlink socket in it, its nftables context, its interfaces.

    `raw` sends nonces; it is kept, since closing a packet socket waits for an RCU grace period.
    """

    space: Space
    place: Place
    route: netlink.Socket
    nft: Rules
    raw: socket.socket
    indexes: dict[str, int]
    """Interface name to index."""

    def close(self) -> None:
        """Let go of the space, which ends with the last process in it."""
        self.route.close()
        self.nft.close()
        self.raw.close()
        for fd in (self.place.net, self.place.mount, self.place.uts):
            if fd is not None:
                os.close(fd)

    def free_index(self, wanted: int) -> int:
        """Return an interface's index, the wanted one unless a card that others made has it."""
        taken = set(self.indexes.values())
        return wanted if wanted not in taken else max(taken) + 1

    def tap_names(self, layout: Layout) -> dict[int, str]:
        """Return interface index to the name of its tap."""
        return {
            index: layout.taps.get((self.space.name, name), f"{self.space.name}.{name}")
            for name, index in self.indexes.items()
        }


class Network:
    """The lab's network: the fabric of bridges, and the spaces that are linked to it and to each other."""

    def __init__(self, layout: Layout, worker: Worker, keep: tuple[str, ...]) -> None:
        """Make the fabric; `keep` are folders outside the private one that programs in pods need too."""
        self.spaces: dict[str, Built] = {}
        self._worker = worker
        self._keep = tuple(outermost(keep))
        self._groups = _groups()
        ruled = sum(bool(space.rules) for space in layout.spaces)
        self._low = LowNumbers(min(ruled + _MORE_RULES, _MOST_RULES))
        self._port = _FIRST_PORT
        self._fabric = netlink.Socket()
        if layout.bridges:
            for scope in (
                "all",
                "default",
            ):  # or the bridges' neighbour discovery would stand in every capture
                _write_sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", "1")
        self._bridges: dict[str, int] = {}
        self.add_bridges(layout.bridges)

    def add_bridges(self, names: Iterable[str]) -> None:
        """Make a bridge for each network that has none."""
        batch: list[netlink.Message] = []
        for name in names:
            if name in self._bridges:
                continue
            index = self._bridges[name] = _FIRST_BRIDGE + len(self._bridges)
            # a kernel name has 15 bytes at most; the fabric's bridges are seen by nobody but us
            mac = f"02:ff:00:00:00:{index:02x}"
            batch += [netlink.bridge(f"br{index}", index, mac), netlink.link_set(index, up=True)]
        self._fabric.send(batch)

    def add(self, spaces: Sequence[Space]) -> list[Built]:
        """Make namespaces and everything in them."""
        make = partial(_make_space, worker=self._worker, keep=self._keep, groups=self._groups, low=self._low)
        there = self._worker.call(lambda: {space.name: make(space) for space in spaces if not space.here})
        made = [_adopt(space) if space.here else there[space.name] for space in spaces]
        self.spaces |= {built.space.name: built for built in made}
        batch: list[netlink.Message] = []
        for built in made:
            for number, nic in enumerate(built.space.nics):
                if nic.bridge is not None and not built.space.here:
                    index = built.indexes[nic.name] = _FIRST_NIC + number
                    batch.append(_pair(nic, self._port, index, built.place.net))
                    batch.append(netlink.link_set(self._port, up=True, master=self._bridges[nic.bridge]))
                    self._port += 1
        self._fabric.send(batch)
        self._link_pods(made)
        for built in made:
            self._add_macvlans(built)
        for built in made:
            built.route.send(_configuration(built))
            if built.space.rules:
                built.nft.run(built.space.rules)
        self._mirror_ports(made)
        return made

    def remove(self, name: str) -> None:
        """Take a space away, its interfaces at both ends at once; the kernel would take its time."""
        built = self.spaces.pop(name)
        links = [built.indexes[nic.name] for nic in built.space.nics]
        with suppress(netlink.NetlinkError):  # the other end may have gone with its own space
            built.route.send([netlink.link_del(index) for index in links])
        for nic in built.space.nics:
            if nic.peer_space in self.spaces and not nic.macvlan:
                self.spaces[nic.peer_space].indexes.pop(nic.peer_name, None)
        built.close()

    def _link_pods(self, made: Sequence[Built]) -> None:
        batches: dict[str, list[netlink.Message]] = {}
        for built in made:
            for nic in built.space.nics:
                if nic.peer_space is None or nic.macvlan:
                    continue
                host = self.spaces[nic.peer_space]
                port = max(_FIRST_CALI, *host.indexes.values()) + 1
                host.indexes[nic.peer_name] = port
                index = built.indexes[nic.name] = _FIRST_NIC
                batch = batches.setdefault(nic.peer_space, [])
                batch += [_pair(nic, port, index, built.place.net), netlink.link_set(port, up=True)]
                if not nic.whole:
                    batch.append(netlink.as_on_wire(port))
        for host_name, batch in batches.items():
            self.spaces[host_name].route.send(batch)

    def _add_macvlans(self, built: Built) -> None:
        """Make a space's macvlans, on cards of its own or of another space: a pod's are on its node's."""
        for number, nic in enumerate(built.space.nics):
            if nic.macvlan and nic.peer_space is not None:
                host = self.spaces[nic.peer_space]
                index = built.indexes[nic.name] = built.free_index(_FIRST_NIC + number)
                card = host.indexes[nic.peer_name]
                made = netlink.macvlan(nic.name, index, nic.mac, card, netns_fd=built.place.net)
                # a macvlan of a card that is down cannot be brought up
                host.route.send([netlink.link_set(card, up=True), made])

    def _mirror_ports(self, made: Sequence[Built]) -> None:
        """Have what passes pods' ports copied; by now the devices that the copies go to are there."""
        for built in made:
            for nic in built.space.nics:
                if nic.peer_space is None or not nic.mirrors:
                    continue
                host = self.spaces[nic.peer_space]
                port = host.indexes[nic.peer_name]
                batch = [netlink.clsact(port)]
                for priority, device in enumerate(nic.mirrors, 1):
                    for incoming in (True, False):
                        to = host.indexes[device]
                        batch.append(netlink.mirror(port, to, incoming=incoming, priority=priority))
                host.route.send(batch)


def _pair(nic: Nic, port: int, index: int, net: int | None) -> netlink.Message:
    """Make both ends of an interface: `port` where we are, `index` in the node's own namespace."""
    return netlink.veth(
        nic.peer_name, port, nic.peer_mac, nic.name, index, nic.mac, net, nic.peer_mtu, nic.mtu
    )


def _configuration(built: Built) -> list[netlink.Message]:
    space, index_of = built.space, built.indexes
    batch = [netlink.link_set(1, up=True)]
    batch += [netlink.address(1, address) for address in space.loopback]
    for nic in space.nics:
        batch += [netlink.address(index_of[nic.name], address) for address in nic.addresses]
        batch.append(netlink.link_set(index_of[nic.name], up=True))
        if not nic.whole:
            batch.append(netlink.as_on_wire(index_of[nic.name]))
    for number, tunnel in enumerate(space.tunnels):
        index_of[tunnel.name] = built.free_index(_FIRST_TUNNEL + number)
        batch += _tunnel(tunnel, index_of[tunnel.name])
    batch += [
        netlink.neighbour(index_of[entry.device], entry.address, entry.mac) for entry in space.neighbours
    ]
    return batch + [route_message(built, route) for route in space.routes]


def _tunnel(tunnel: Tunnel, index: int) -> Iterator[netlink.Message]:
    if tunnel.kind == "ipip":
        yield netlink.ipip(tunnel.name, index, local=tunnel.local)
    elif tunnel.kind == "geneve":
        yield netlink.geneve(tunnel.name, index, tunnel.mac, vni=tunnel.vni, remote=tunnel.remote)
    else:
        yield netlink.vxlan(tunnel.name, index, tunnel.mac, vni=tunnel.vni, local=tunnel.local)
    yield from (netlink.address(index, address) for address in tunnel.addresses)
    yield netlink.link_set(index, up=True, mtu=tunnel.mtu)
    yield netlink.as_on_wire(index)
    yield from (netlink.fdb(index, mac, end) for mac, end in tunnel.ends)


def route_message(built: Built, route: Route, *, again: bool = False) -> netlink.Message:
    """Return the request that adds a route to a space; `again` where it may be there still."""
    return netlink.route(
        route.destination,
        gateway=route.gateway,
        dev=built.indexes[route.device] if route.device else None,
        table=route.table,
        type=route.kind,
        onlink=route.onlink,
        src=route.source,
        replace=again,
    )


def _make_space(space: Space, worker: Worker, keep: tuple[str, ...], groups: str, low: LowNumbers) -> Built:
    """Make a namespace, in the worker's thread, which is home again when this returns."""
    sys_.unshare(sys_.CLONE_NEWNET)
    try:
        net = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _write_sysctl("net.ipv4.ping_group_range", groups)
        for name, value in space.sysctls:
            _write_sysctl(name, value)
        # these sockets stay in this namespace for good
        route, raw = netlink.Socket(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        nft = Rules(low, lambda make: worker.visit(Place(net), make))
        place = make_pod(space, net, keep) if space.pod else Place(net)
        return Built(space, place, route, nft, raw, {"lo": 1})
    finally:
        worker.go_home()


def _adopt(space: Space) -> Built:
    """Take over the namespace that we are in, and its cards, which get the names and addresses that they are to have.

    Raises OSError when a card is not there. What others configured of them goes.
    """
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    built = Built(
        space, Place(None), netlink.Socket(), Rules(LowNumbers(0), lambda make: make()), raw, {"lo": 1}
    )
    known = {entry.address.partition("/")[0]: entry for entry in built.route.addresses()}
    batch: list[netlink.Message] = []
    for nic in space.nics:
        if nic.bridge is None:
            continue
        found = known.get(nic.found_by)
        if found is None:
            raise OSError(errno.ENODEV, f"{space.name} has no card with the address {nic.found_by}")
        index = built.indexes[nic.name] = found.index
        # down first: only then a card takes another name everywhere; a name may be another card's still
        batch += [netlink.link_set(index, up=False), netlink.address_del(index, found.address)]
        # its hardware address stays: neighbours may have asked for it already
        batch.append(netlink.link_set(index, name=f"card{index}", mtu=nic.mtu))
    for nic in space.nics:
        if nic.bridge is not None:
            index = built.indexes[nic.name]
            batch.append(netlink.link_set(index, name=nic.name))
            # it was made before the sysctls of `default` were set
            batch.append(netlink.ipv4_settings(index, send_redirects=0, rp_filter=0))
    built.route.send(batch)
    return built


def _write_sysctl(name: str, value: str) -> None:
    try:
        fd = os.open("/proc/sys/" + name.replace(".", "/"), os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"sysctl {name} = {value}: {error.strerror}") from error


def _groups() -> str:
    """Return the groups that may ping without privileges: every one that our user namespace maps (icmp(7))."""
    rows = [line.split() for line in Path("/proc/self/gid_map").read_text(encoding="ascii").splitlines()]
    first, _, count = map(int, rows[0])
    return f"{first} {min(first + count - 1, _LAST_GROUP)}"
