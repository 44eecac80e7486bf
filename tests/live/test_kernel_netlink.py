"""Requests and answers of rtnetlink, against the kernel."""

from __future__ import annotations

import errno
import select
import socket
import time

import pytest
from own_namespace import alone, here, move_to, new_network

from harness import netlink

pytestmark = pytest.mark.live

MAC = "02:00:00:00:00:{:02x}"


def up_pair(route: netlink.Socket) -> None:
    """Make the pair eth0 (2, 10.0.0.1/24) and eth1 (3), both up, in this namespace."""
    route.send(
        [
            netlink.link_set(1, up=True),
            netlink.veth("eth0", 2, MAC.format(2), "eth1", 3, MAC.format(3)),
            netlink.link_set(2, up=True),
            netlink.link_set(3, up=True),
            netlink.address(2, "10.0.0.1/24"),
        ]
    )


@alone
def test_pair_across_namespaces_carries_traffic() -> None:
    """A pair whose peer was made straight in another namespace carries traffic at once."""
    home, away = here(), new_network()
    route = netlink.Socket()
    move_to(away)
    far = netlink.Socket()
    listener = socket.create_server(("0.0.0.0", 8080))  # noqa: S104 - in a namespace of this test
    move_to(home)
    route.send(
        [
            netlink.veth("eth0", 2, MAC.format(2), "eth0", 7, MAC.format(7), away, 1400),
            netlink.address(2, "10.0.0.1/24"),
            netlink.link_set(2, up=True),
            netlink.neighbour(2, "10.0.0.2", MAC.format(7)),
        ]
    )
    far.send(
        [
            netlink.address(7, "10.0.0.2/24"),
            netlink.link_set(7, up=True),
            netlink.neighbour(7, "10.0.0.1", MAC.format(2)),
        ]
    )
    with socket.create_connection(("10.0.0.2", 8080), timeout=5), listener:
        peer = listener.accept()[1]
    assert peer[0] == "10.0.0.1"
    there = {link.index: link for link in far.links()}[7]
    assert (there.name, there.mac, there.mtu, there.up, there.kind) == (
        "eth0",
        MAC.format(7),
        1400,
        True,
        "veth",
    )


@alone
def test_every_object_reads_back_as_written() -> None:
    """What was made is what the dumps tell, kind by kind."""
    with netlink.Socket() as route:
        up_pair(route)
        route.send(
            [
                netlink.bridge("br0", 10, MAC.format(10)),
                netlink.macvlan("mac0", 11, MAC.format(11), 2),
                netlink.vxlan("vx0", 12, MAC.format(12), vni=4096, local="10.0.0.1"),
                netlink.link_set(10, up=True),
                netlink.link_set(3, master=10),
                netlink.link_set(12, up=True, mtu=1450, name="vxlan0"),
                netlink.fdb(12, "00:00:00:00:00:00", "10.0.0.9"),
                netlink.fdb(12, "00:00:00:00:00:00", "10.0.0.8"),
                netlink.fdb(12, MAC.format(9), "10.0.0.9"),
                netlink.fdb(3, MAC.format(9)),
                netlink.neighbour(2, "10.0.0.7", MAC.format(7)),
                netlink.route("10.1.0.0/16", gateway="10.0.0.2"),
                netlink.route("10.2.0.0/16", dev=2, table=1000, src="10.0.0.1"),
                netlink.route("default", gateway="192.0.2.1", dev=2, onlink=True, metric=50, table=100),
                netlink.route("default", type="unreachable", metric=4278198272, table=100),
                netlink.route("10.3.0.0/26", type="blackhole", proto="bird"),
                netlink.rule(100, src="10.0.0.0/24", table=1000),
                netlink.rule(99, dst="10.9.0.0/16", mark=0x10, action="blackhole"),
            ]
        )
        links = {link.name: link for link in route.links()}
        assert (links["eth1"].master, links["eth1"].parent, links["eth1"].kind) == (10, 2, "veth")
        assert (links["vxlan0"].kind, links["vxlan0"].mtu, links["mac0"].parent) == ("vxlan", 1450, 2)
        assert "10.0.0.1/24" in {found.address for found in route.addresses() if found.index == 2}
        main = {found.dst: found for found in route.routes(netlink.MAIN)}
        assert (main["10.1.0.0/16"].gateway, main["10.1.0.0/16"].proto, main["10.1.0.0/16"].dev) == (
            "10.0.0.2",
            "boot",
            2,
        )
        assert (main["10.3.0.0/26"].type, main["10.3.0.0/26"].proto) == ("blackhole", "bird")
        assert main["10.0.0.0/24"].proto == "kernel"
        (far,) = route.routes(1000)
        assert (far.dst, far.scope, far.src, far.table) == ("10.2.0.0/16", "link", "10.0.0.1", 1000)
        first, last = sorted(route.routes(100), key=lambda found: found.metric)
        assert (first.gateway, first.onlink, last.type, last.metric) == (
            "192.0.2.1",
            True,
            "unreachable",
            4278198272,
        )
        rules = {found.priority: found for found in route.rules()}
        assert (rules[100].src, rules[100].table, rules[100].action) == ("10.0.0.0/24", 1000, "table")
        assert (rules[99].dst, rules[99].mark, rules[99].action) == ("10.9.0.0/16", 0x10, "blackhole")
        (known,) = [found for found in route.neighbours() if found.address == "10.0.0.7"]
        assert (known.mac, known.permanent, known.index) == (MAC.format(7), True, 2)


@alone
def test_deletions_undo() -> None:
    """What was deleted is gone, of a pair both ends."""
    with netlink.Socket() as route:
        up_pair(route)
        made = [
            netlink.route("10.1.0.0/16", gateway="10.0.0.2", metric=5),
            netlink.rule(100, src="10.0.0.0/24", table=1000),
            netlink.neighbour(2, "10.0.0.7", MAC.format(7)),
            netlink.address(2, "10.0.0.5/24"),
        ]
        route.send(made)
        route.send(
            [
                netlink.route_del("10.1.0.0/16", metric=5),
                netlink.rule_del(100, src="10.0.0.0/24", table=1000),
                netlink.neighbour_del(2, "10.0.0.7"),
                netlink.address_del(2, "10.0.0.5/24"),
            ]
        )
        assert "10.1.0.0/16" not in {found.dst for found in route.routes()}
        assert 100 not in {found.priority for found in route.rules()}
        assert "10.0.0.7" not in {found.address for found in route.neighbours()}
        assert "10.0.0.5/24" not in {found.address for found in route.addresses()}
        route.send([netlink.link_del(2)])
        assert "eth1" not in {found.name for found in route.links()}


@alone
def test_ipv6_is_spoken() -> None:
    """Addresses, routes, gateways of another family and neighbours work for IPv6 as for IPv4."""
    with netlink.Socket() as route:
        up_pair(route)
        route.send(
            [
                netlink.address(2, "2001:db8::1/64"),
                netlink.route("2001:db8:1::/48", gateway="2001:db8::2"),
                netlink.route("10.5.0.0/16", gateway="2001:db8::2", dev=2),
                netlink.neighbour(2, "2001:db8::2", MAC.format(3)),
            ]
        )
        main = {found.dst: found for found in route.routes(netlink.MAIN)}
        assert main["2001:db8:1::/48"].gateway == "2001:db8::2"
        assert main["10.5.0.0/16"].gateway == "2001:db8::2"


@alone
def test_refusal_names_its_message() -> None:
    """The error tells which message of a batch it was, what it asked for, and the kernel's explanation."""
    with netlink.Socket() as route:
        up_pair(route)
        batch = [
            netlink.route("10.1.0.0/16", gateway="10.0.0.2"),
            netlink.route("10.2.0.0/16", gateway="203.0.113.9"),
            netlink.route("10.3.0.0/16", gateway="10.0.0.2"),
            netlink.link_del(77),
        ]
        with pytest.raises(netlink.NetlinkError) as caught:
            route.send(batch)
        assert (caught.value.index, caught.value.errno) == (1, errno.ENETUNREACH)
        assert "10.2.0.0/16 via 203.0.113.9" in str(caught.value)
        assert caught.value.text
        route.send([netlink.route("10.4.0.0/16", gateway="10.0.0.2")])
        assert "10.4.0.0/16" in {found.dst for found in route.routes(netlink.MAIN)}


@alone
def test_last_message_may_be_the_refused_one() -> None:
    """The message that asks for the answer is itself reported when it fails."""
    with netlink.Socket() as route, pytest.raises(netlink.NetlinkError) as caught:
        route.send([netlink.link_set(1, up=True), netlink.link_del(77)])
    assert (caught.value.index, caught.value.errno) == (1, errno.ENODEV)


@alone
def test_batch_larger_than_a_send_is_split() -> None:
    """Three thousand routes, far more than 64 KB, arrive in one call, and an error keeps its number."""
    with netlink.Socket() as route:
        up_pair(route)
        wanted = [f"10.{100 + number // 256}.{number % 256}.0/24" for number in range(3000)]
        batch = [netlink.route(dst, gateway="10.0.0.2") for dst in wanted]
        route.send(batch)
        assert set(wanted) <= {found.dst for found in route.routes(netlink.MAIN)}
        with pytest.raises(netlink.NetlinkError) as caught:
            route.send([*(netlink.link_set(1, up=True) for _ in range(2500)), batch[0]])
        assert (caught.value.index, caught.value.errno) == (2500, errno.EEXIST)


@alone
def test_empty_batch_is_nothing() -> None:
    """A space with nothing to set up costs no system call and is no error."""
    with netlink.Socket() as route:
        route.send([])


@alone
def test_changes_of_routes_wake_a_waiter() -> None:
    """A subscriber becomes readable when another socket adds or deletes a route, and is told which."""
    with netlink.Socket() as route, netlink.Socket() as waiter:
        up_pair(route)
        waiter.subscribe()
        route.send([netlink.route("10.1.0.0/16", gateway="10.0.0.2", proto="bird")])
        assert select.select([waiter], [], [], 5)[0]
        (event,) = _about("10.1.0.0/16", waiter)
        assert (event.added, event.route.proto) == (True, "bird")
        route.send([netlink.route_del("10.1.0.0/16")])
        assert [event.added for event in _about("10.1.0.0/16", waiter)] == [False]


def _about(dst: str, waiter: netlink.Socket) -> list[netlink.RouteEvent]:
    """Return the events of one route; the kernel adds routes of IPv6 whenever an interface is ready for it."""
    return [event for event in waiter.read_events() if event.route.dst == dst]


@alone
def test_subscriber_may_ask_and_change_too() -> None:
    """Events that come between the answers to requests are kept for `read_events`."""
    with netlink.Socket() as both, netlink.Socket() as route:
        up_pair(route)
        both.subscribe()
        both.send([netlink.route("10.1.0.0/16", gateway="10.0.0.2")])
        route.send([netlink.route("10.2.0.0/16", gateway="10.0.0.2")])
        assert {"10.1.0.0/16", "10.2.0.0/16"} <= {found.dst for found in both.routes(netlink.MAIN)}
        assert {event.route.dst for event in both.read_events()} >= {"10.1.0.0/16", "10.2.0.0/16"}


@alone
def test_a_mirror_copies_every_packet_of_a_direction() -> None:
    """What goes out of an interface goes out of the mirror's as well, and two mirrors both get it."""
    with netlink.Socket() as route:
        up_pair(route)
        others = [(20, "a0", 21, "a1"), (22, "b0", 23, "b1")]
        for near, name, far, peer in others:
            route.send(
                [
                    netlink.veth(name, near, MAC.format(near), peer, far, MAC.format(far)),
                    netlink.link_set(near, up=True),
                    netlink.link_set(far, up=True),
                ]
            )
        mirrors = [
            netlink.mirror(2, near, incoming=incoming, priority=priority)
            for priority, (near, *_) in enumerate(others, 1)
            for incoming in (True, False)
        ]
        route.send([netlink.clsact(2), *mirrors])
        listeners = []
        for _, _, _, peer in others:
            listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            listener.bind((peer, 3))
            listener.settimeout(5)
            listeners.append(listener)
        frame = (
            bytes.fromhex(MAC.format(3).replace(":", "") + MAC.format(2).replace(":", "") + "88b6")
            + b"x" * 50
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            for interface in ("eth0", "eth1"):
                sender.bind((interface, 0))
                sender.send(frame)
        for listener in listeners:
            with listener:
                seen = 0
                while seen < 2:  # the kernel's own announcements pass too
                    seen += listener.recv(2048) == frame


@alone
def test_a_hundred_pods_stand_in_little_time() -> None:
    """A hundred pairs with namespaces, addresses, neighbours and default routes take well below a second."""
    home = here()
    with netlink.Socket() as node:
        started = time.perf_counter()
        for number in range(100):
            away = new_network()
            move_to(away)
            with netlink.Socket() as pod:
                move_to(home)
                mine, theirs = f"02:01:00:00:00:{number:02x}", f"02:02:00:00:00:{number:02x}"
                index = 100 + number
                node.send(
                    [
                        netlink.veth(f"cali{number}", index, mine, "eth0", 2, theirs, away),
                        netlink.link_set(index, up=True),
                        netlink.route(f"10.0.0.{number + 1}/32", dev=index),
                        netlink.neighbour(index, f"10.0.0.{number + 1}", theirs),
                    ]
                )
                pod.send(
                    [
                        netlink.link_set(1, up=True),
                        netlink.address(2, f"10.0.0.{number + 1}/32"),
                        netlink.link_set(2, up=True),
                        netlink.route("169.254.1.1/32", dev=2),
                        netlink.route("default", gateway="169.254.1.1", dev=2),
                        netlink.neighbour(2, "169.254.1.1", mine),
                    ]
                )
        took = time.perf_counter() - started
        assert sum(link.kind == "veth" for link in node.links()) == 100
    assert took < 5
