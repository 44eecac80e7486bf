"""The bytes of rtnetlink requests, and what is refused before the kernel sees it."""

from __future__ import annotations

import ipaddress
import pickle
import struct
from typing import Any

import pytest

from harness import netlink
from harness.netlink import records

MAC = "02:00:00:00:00:01"


def test_addition_of_a_route_has_the_bytes_of_iproute2() -> None:
    """The body is, byte for byte, what `ip route add 10.1.0.0/16 via 10.0.0.2 dev 2` sends, table spelled out."""
    header = struct.pack("=BBBBBBBBI", 2, 16, 0, 0, 254, 3, 0, 1, 0)
    attributes = bytes.fromhex(
        "080001000a010000 080005000a000002 0800040002000000 08000f00fe000000".replace(" ", "")
    )
    message = netlink.route("10.1.0.0/16", gateway="10.0.0.2", dev=2)
    assert message.body == header + attributes
    assert (message.kind, message.flags) == (24, 0x601)


def test_bodies_end_on_four_bytes() -> None:
    """Names of any length are padded, so that the next message of a batch starts where the kernel looks for it."""
    for name in ("a", "ab", "abc", "abcd", "abcde"):
        assert len(netlink.bridge(name, 2, MAC).body) % 4 == 0
        assert len(netlink.veth(name, 2, MAC, name, 3, MAC, 9).body) % 4 == 0


def test_links_read_back() -> None:
    """A request to make a link decodes to the link asked for."""
    link = records.link(netlink.bridge("br-one", 17, MAC).body)
    assert (link.index, link.name, link.mac, link.kind, link.up) == (17, "br-one", MAC, "bridge", False)


@pytest.mark.parametrize(
    ("dst", "gateway", "family"),
    [
        ("10.1.0.0/16", "10.0.0.2", 2),
        ("default", "10.0.0.2", 2),
        ("default", "2001:db8::1", 10),
        ("2001:db8:1::/48", "2001:db8::1", 10),
        ("10.1.0.0/16", "2001:db8::1", 2),
    ],
)
def test_routes_read_back(dst: str, gateway: str, family: int) -> None:
    """Destination, family and gateway survive, a default route and a gateway of another family too."""
    route = records.route(netlink.route(dst, gateway=gateway, table=1000, metric=7, proto="bird").body)
    assert (route.dst, route.gateway, route.family) == (dst, gateway, family)
    assert (route.table, route.metric, route.proto, route.type) == (1000, 7, "bird", "unicast")


def test_scope_follows_the_gateway_unless_given() -> None:
    """A route without a gateway is for the link, one with a gateway or that leads nowhere is global."""
    assert records.route(netlink.route("10.0.0.1/32", dev=2).body).scope == "link"
    assert records.route(netlink.route("10.0.0.0/8", gateway="10.0.0.1").body).scope == "global"
    assert records.route(netlink.route("10.0.0.0/8", type="unreachable").body).scope == "global"
    assert records.route(netlink.route("10.0.0.1/32", dev=2, scope="host").body).scope == "host"


def test_multipath_routes_are_told_hop_by_hop() -> None:
    """Next hops of a multipath route come as pairs of gateway and interface."""
    header = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 12, 0, 1, 0)
    hops = b"".join(
        struct.pack("=HBBi", 16, 0, 0, index) + b"\x08\0\x05\0" + bytes([10, 0, 0, index]) for index in (2, 3)
    )
    route = records.route(header + struct.pack("=HH", 4 + len(hops), 9) + hops)
    assert route.nexthops == (("10.0.0.2", 2), ("10.0.0.3", 3))
    assert (route.dst, route.gateway) == ("default", None)


def test_rules_read_back() -> None:
    """A rule's selectors and its table, also one over 255, survive."""
    rule = records.rule(netlink.rule(100, src="10.1.0.0/24", table=1000, mark=5, iif="eth0").body)
    assert rule == records.Rule(2, 100, "10.1.0.0/24", None, 1000, "table", 5, "eth0")


def test_neighbours_and_addresses_read_back() -> None:
    """An entry and an address decode to what was asked for."""
    assert records.neighbour(netlink.neighbour(2, "10.0.0.2", MAC).body) == records.Neighbour(
        2, "10.0.0.2", MAC, permanent=True
    )
    assert records.address(netlink.address(2, "10.0.0.1/24").body) == records.Address(
        2, "10.0.0.1/24", "global"
    )
    assert records.address(netlink.address(2, "2001:db8::1").body).address == "2001:db8::1/128"


def test_entry_of_a_bridge_is_no_neighbour() -> None:
    """A MAC table's entry has no address and is passed over."""
    assert records.neighbour(netlink.fdb(2, MAC).body) is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: netlink.address(2, "10.0.0.256/24"), "'10.0.0.256' is not an IP address"),
        (lambda: netlink.address(2, "10.0.0.1/33"), "'10.0.0.1/33' is not ip/prefix"),
        (lambda: netlink.route("10.0.0.0/x"), "'10.0.0.0/x' is not ip/prefix"),
        (lambda: netlink.bridge("b", 2, "02:00:00:00:00"), "'02:00:00:00:00' is not a MAC address"),
        (
            lambda: netlink.neighbour(2, "10.0.0.1", "zz:00:00:00:00:01"),
            "'zz:00:00:00:00:01' is not a MAC address",
        ),
    ],
)
def test_what_is_no_address_is_refused(make: object, sentence: str) -> None:
    """A text that is no address or MAC is named in the error, before anything is sent."""
    assert callable(make)
    with pytest.raises(ValueError, match=sentence):
        make()


def test_requests_say_what_they_ask_for() -> None:
    """Each description reads on from `cannot`, and names the object."""
    assert netlink.link_set(3, up=True, master=10).description == "set interface 3 up True master 10"
    assert netlink.route("default", gateway="10.0.0.1").description == (
        "add unicast route to default via 10.0.0.1 in table 254"
    )
    assert netlink.rule(9, src="10.0.0.0/8").description == "add rule 9 from 10.0.0.0/8 to all table 254"


def test_error_survives_a_process_border() -> None:
    """The error can be pickled, so that a process may tell another of it, with all its parts."""
    error = netlink.NetlinkError(2, 5, "delete interface 9", "no such link")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - written by this very line
    assert (again.errno, again.index, again.description, again.text) == (
        2,
        5,
        "delete interface 9",
        "no such link",
    )
    assert str(again) == "cannot delete interface 9: No such file or directory (no such link)"


def test_broken_attributes_end() -> None:
    """A length of 0, which would never end, ends the reading."""
    assert records.attributes(b"\0\0\1\0" * 10) == {}


def test_every_public_name_is_exported() -> None:
    """Whatever builds a message can be had from the package itself."""
    from harness.netlink import messages, traffic, tunnels  # noqa: PLC0415

    made_here = {
        name
        for module in (messages, traffic, tunnels)
        for name, item in vars(module).items()
        if getattr(item, "__module__", "") == module.__name__
    }
    assert {name for name in made_here if not name.startswith("_")} <= set(netlink.__all__)


def test_tunnels_that_no_kernel_here_has_are_asked_for_by_the_headers() -> None:
    """Kind and attributes are those of linux/if_tunnel.h and linux/if_link.h, numbers and byte order included."""
    ipip = netlink.ipip("ipip.calico", 500, local="172.19.0.2").body
    assert attributes(ipip[16:]) == {
        3: b"ipip.calico\0",
        18: {1: b"ipip\0", 2: {2: bytes([172, 19, 0, 2])}},
    }
    geneve = netlink.geneve("mirror0", 501, MAC, vni=71680, remote="172.19.0.9").body
    data = {1: struct.pack("=I", 71680), 2: bytes([172, 19, 0, 9]), 5: struct.pack(">H", 6081)}
    assert attributes(geneve[16:])[18] == {1: b"geneve\0", 2: data}
    six = netlink.geneve("mirror0", 501, MAC, vni=7, remote="fd00::9").body
    assert attributes(six[16:])[18][2][7] == ipaddress.ip_address("fd00::9").packed


def attributes(data: bytes) -> dict[int, Any]:
    """Return netlink attributes by their numbers; those of a link's kind (18) and of its data within (2) nested."""
    found: dict[int, Any] = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    if 18 in found:
        found[18] = attributes(found[18])
        found[18][2] = attributes(found[18][2])
    return found
