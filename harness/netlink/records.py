"""What the kernel tells over rtnetlink, decoded (rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h).

Interfaces are given by index, addresses as text, and a field that the kernel did not send is None.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

AF_BRIDGE = 7
ROUTE_TYPES = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
}
PROTOCOLS = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 12: "bird", 186: "bgp"}
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
ACTIONS = {1: "table", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
"""The words of ip-route(8) and ip-rule(8); a number that is not here is written as a number."""

Attributes = dict[int, bytes]

_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NEXT_HOP = struct.Struct("=HBBi")
_NESTED_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; `mac` as `aa:bb:cc:dd:ee:ff`, `parent` the index of the other end or the lower device."""

    index: int
    name: str
    up: bool
    running: bool
    mac: str | None
    mtu: int
    master: int | None
    parent: int | None
    kind: str | None


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface, as `ip/prefix`."""

    index: int
    address: str
    scope: str


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `dst` as `ip/prefix`, with `default` for the whole of IPv4 or IPv6.

    `nexthops` are the (gateway, interface index) pairs of a multipath route, empty otherwise.
    """

    family: int
    dst: str
    table: int
    type: str
    proto: str
    scope: str
    metric: int
    gateway: str | None
    dev: int | None
    src: str | None
    onlink: bool
    nexthops: tuple[tuple[str | None, int], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule; `src` and `dst` as `ip/prefix`, None for any."""

    family: int
    priority: int
    src: str | None
    dst: str | None
    table: int
    action: str
    mark: int | None
    iif: str | None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or neighbour-discovery table; `mac` is None while it is not known."""

    index: int
    address: str
    mac: str | None
    permanent: bool


def attributes(data: bytes, offset: int = 0) -> Attributes:
    """Split a run of netlink attributes, the last of its kind winning."""
    found: Attributes = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:  # a broken length would never end
            break
        found[kind & _NESTED_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def link(body: bytes) -> Link:
    """Decode the body of RTM_NEWLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(18, b""))
    mac = found.get(1)
    return Link(
        index=index,
        name=_text(found[3]),
        up=bool(flags & 0x1),
        running=bool(flags & 0x40),
        mac=mac.hex(":") if mac else None,
        mtu=_number(found.get(4), 0),
        master=_optional(found.get(10)),
        parent=_optional(found.get(5)),
        kind=_text(info[1]) if 1 in info else None,
    )


def address(body: bytes) -> Address:
    """Decode the body of RTM_NEWADDR."""
    _, prefix, _, scope, index = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    own = found.get(2) or found[1]  # of a point-to-point address IFA_ADDRESS is the peer's
    return Address(index, f"{_ip(own)}/{prefix}", SCOPES.get(scope, str(scope)))


def route(body: bytes) -> Route:
    """Decode the body of RTM_NEWROUTE or RTM_DELROUTE."""
    family, prefix, _, _, table, proto, scope, kind, flags = _ROUTE.unpack_from(body)
    found = attributes(body, _ROUTE.size)
    return Route(
        family=family,
        dst=f"{_ip(found[1])}/{prefix}" if 1 in found else "default",
        table=_number(found.get(15), table),
        type=ROUTE_TYPES.get(kind, str(kind)),
        proto=PROTOCOLS.get(proto, str(proto)),
        scope=SCOPES.get(scope, str(scope)),
        metric=_number(found.get(6), 0),
        gateway=_gateway(found),
        dev=_optional(found.get(4)),
        src=_ip(found[7]) if 7 in found else None,
        onlink=bool(flags & 0x4),
        nexthops=_next_hops(found.get(9, b"")),
    )


def rule(body: bytes) -> Rule:
    """Decode the body of RTM_NEWRULE."""
    family, to_prefix, from_prefix, _, table, _, _, action, _ = _ROUTE.unpack_from(body)
    found = attributes(body, _ROUTE.size)
    return Rule(
        family=family,
        priority=_number(found.get(6), 0),
        src=f"{_ip(found[2])}/{from_prefix}" if 2 in found else None,
        dst=f"{_ip(found[1])}/{to_prefix}" if 1 in found else None,
        table=_number(found.get(15), table),
        action=ACTIONS.get(action, str(action)),
        mark=_optional(found.get(10)),
        iif=_text(found[3]) if 3 in found else None,
    )


def neighbour(body: bytes) -> Neighbour | None:
    """Decode the body of RTM_NEWNEIGH; None for an entry that has no address (of a bridge's own table)."""
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = attributes(body, _NEIGHBOUR.size)
    if family == AF_BRIDGE or 1 not in found:
        return None
    mac = found.get(2)
    return Neighbour(index, _ip(found[1]), mac.hex(":") if mac else None, bool(state & 0x80))


def _gateway(found: Attributes) -> str | None:
    if 5 in found:
        return _ip(found[5])
    if 18 in found:  # RTA_VIA: the gateway is of another family than the route
        return _ip(found[18][2:])
    return None


def _next_hops(data: bytes) -> tuple[tuple[str | None, int], ...]:
    hops: list[tuple[str | None, int]] = []
    while len(data) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(data)
        if length < _NEXT_HOP.size:
            break
        hops.append((_gateway(attributes(data[_NEXT_HOP.size : length])), index))
        data = data[(length + 3) & ~3 :]
    return tuple(hops)


def _ip(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes | None, otherwise: int) -> int:
    return otherwise if raw is None else int.from_bytes(raw, sys.byteorder)


def _optional(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, sys.byteorder)
