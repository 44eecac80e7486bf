"""Requests to the kernel: a function an object, named after it, and one more to delete it.

All raise ValueError for an address or MAC that is none, and KeyError for a word that ip(8) does not know.

Source: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/fib_rules.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct

from harness.netlink import packing
from harness.netlink.records import ACTIONS, PROTOCOLS, ROUTE_TYPES, SCOPES
from harness.netlink.requests import LINK, Message, make_link, neighbour_header

MAIN = 254
"""The table that routes go to unless another is named."""

_REQUEST, _REPLACE, _EXCL, _CREATE = 0x1, 0x100, 0x200, 0x400
_MAKE, _PUT = _REQUEST | _CREATE | _EXCL, _REQUEST | _CREATE | _REPLACE
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_NEWNEIGH, _DELNEIGH, _NEWRULE, _DELRULE = 28, 29, 32, 33
_NUD_REACHABLE, _NUD_PERMANENT = 0x02, 0x80
_IFF_UP = 0x1
_RTNH_F_ONLINK = 0x4
_ONE_QUEUE = struct.pack("=HHIHHI", 8, 31, 1, 8, 32, 1)
"""IFLA_NUM_TX_QUEUES and IFLA_NUM_RX_QUEUES, 1 each: the kernel makes one per processor otherwise."""

_TYPE_OF = {word: number for number, word in ROUTE_TYPES.items()}
_PROTOCOL_OF = {word: number for number, word in PROTOCOLS.items()}
_SCOPE_OF = {word: number for number, word in SCOPES.items()}
_ACTION_OF = {word: number for number, word in ACTIONS.items()}
_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

_ROUTE = struct.Struct("=BBBBBBBBI")


def bridge(name: str, index: int, mac: str) -> Message:
    """Make a bridge, down; with a MAC of its own it does not take over that of its ports."""
    return make_link("bridge", name, index, mac)


def veth(  # noqa: PLR0913 - both ends of a pair are made by one message
    name: str,
    index: int,
    mac: str,
    peer_name: str,
    peer_index: int,
    peer_mac: str,
    peer_netns_fd: int | None = None,
    mtu: int = 1500,
    peer_mtu: int | None = None,
) -> Message:
    """Make a pair, both ends down, the peer in the namespace behind a descriptor.

    The peer's MTU is the same unless given. A peer that is created up makes the kernel refuse with ENOTCONN: set
    both ends up afterwards.
    """
    size = packing.u32(4, mtu) + _ONE_QUEUE
    peer = LINK.pack(0, 0, peer_index, 0, 0) + packing.string(3, peer_name)
    peer += packing.attribute(1, packing.mac(peer_mac)) + packing.u32(4, peer_mtu or mtu) + _ONE_QUEUE
    if peer_netns_fd is not None:
        peer += packing.u32(28, peer_netns_fd)
    return make_link("veth", name, index, mac, data=packing.attribute(1, peer), own=size)


def macvlan(  # noqa: PLR0913 - what such a link is made of
    name: str, index: int, mac: str, parent: int, *, mode: str = "bridge", netns_fd: int | None = None
) -> Message:
    """Make a macvlan (modes of ip-link(8)) on an interface; `netns_fd` is where it is to lie."""
    own = packing.u32(5, parent) + (packing.u32(28, netns_fd) if netns_fd is not None else b"")
    return make_link("macvlan", name, index, mac, data=packing.u32(1, _MACVLAN_MODES[mode]), own=own)


def link_set(  # noqa: PLR0913 - each is one attribute of a link
    index: int,
    *,
    up: bool | None = None,
    master: int | None = None,
    mtu: int | None = None,
    name: str | None = None,
    mac: str | None = None,
    netns_fd: int | None = None,
) -> Message:
    """Change an interface; None leaves as it is, `master=0` takes it out of its bridge."""
    body = LINK.pack(0, 0, index, _IFF_UP if up else 0, _IFF_UP if up is not None else 0)
    for kind, number in ((10, master), (4, mtu), (28, netns_fd)):
        if number is not None:
            body += packing.u32(kind, number)
    if name is not None:
        body += packing.string(3, name)
    if mac is not None:
        body += packing.attribute(1, packing.mac(mac))
    wanted = {"up": up, "master": master, "mtu": mtu, "name": name, "mac": mac, "netns": netns_fd}
    words = " ".join(f"{key} {value}" for key, value in wanted.items() if value is not None)
    return Message(_NEWLINK, _REQUEST, body, f"set interface {index} {words}")


def link_del(index: int) -> Message:
    """Delete an interface (of a pair both ends)."""
    return Message(_DELLINK, _REQUEST, LINK.pack(0, 0, index, 0, 0), f"delete interface {index}")


def address(index: int, prefix: str, scope: str = "global") -> Message:
    """Give an interface an address, `ip/prefix`; without a prefix it is for that address alone."""
    body = _address(index, prefix, scope)
    return Message(_NEWADDR, _MAKE, body, f"add address {prefix} to interface {index}")


def address_del(index: int, prefix: str) -> Message:
    """Take an address, `ip/prefix`, from an interface."""
    body = _address(index, prefix, "global")
    return Message(_DELADDR, _REQUEST, body, f"delete address {prefix} from interface {index}")


def route(  # noqa: PLR0913 - the words of ip-route(8)
    dst: str,
    *,
    gateway: str | None = None,
    dev: int | None = None,
    table: int = MAIN,
    type: str = "unicast",  # noqa: A002 - ip-route(8) calls it so
    scope: str | None = None,
    onlink: bool = False,
    metric: int = 0,
    proto: str = "boot",
    src: str | None = None,
    replace: bool = False,
) -> Message:
    """Add a route to `ip/prefix` or `default` (of the gateway's family, else IPv4; `::/0` for IPv6).

    The scope is `link` for a route without a gateway unless given, as ip-route(8) has it. `replace` takes the
    place of a route with the same destination, table and metric, which is an error (EEXIST) without it.
    """
    (family, length, found), words = _route(dst, gateway, dev, table, metric=metric, src=src)
    if scope is None:
        scope = "link" if type == "unicast" and gateway is None else "global"
    fixed = (table if table < 256 else 0, _PROTOCOL_OF[proto], _SCOPE_OF[scope], _TYPE_OF[type])
    header = _ROUTE.pack(family, length, 0, 0, *fixed, _RTNH_F_ONLINK if onlink else 0)
    return Message(_NEWROUTE, _PUT if replace else _MAKE, header + found, f"add {type} route to {words}")


def route_del(
    dst: str, *, gateway: str | None = None, dev: int | None = None, table: int = MAIN, metric: int = 0
) -> Message:
    """Delete a route; what is not given may be anything, a metric of 0 means the first that fits."""
    (family, length, found), words = _route(dst, gateway, dev, table, metric=metric, src=None)
    header = _ROUTE.pack(family, length, 0, 0, table if table < 256 else 0, 0, _SCOPE_OF["nowhere"], 0, 0)
    return Message(_DELROUTE, _REQUEST, header + found, f"delete route to {words}")


def rule(  # noqa: PLR0913 - the words of ip-rule(8)
    priority: int,
    *,
    src: str | None = None,
    dst: str | None = None,
    table: int = MAIN,
    action: str = "table",
    mark: int | None = None,
    iif: str | None = None,
) -> Message:
    """Add a policy rule; `src` and `dst` as `ip/prefix` (IPv4 when neither is given), `mark` in full."""
    body, words = _rule(priority, src, dst, table, action=action, mark=mark, iif=iif)
    return Message(_NEWRULE, _MAKE, body, f"add rule {words}")


def rule_del(  # noqa: PLR0913 - the words of ip-rule(8)
    priority: int,
    *,
    src: str | None = None,
    dst: str | None = None,
    table: int = MAIN,
    action: str = "table",
    mark: int | None = None,
    iif: str | None = None,
) -> Message:
    """Delete the rule that has all these; the arguments are those of `rule`."""
    body, words = _rule(priority, src, dst, table, action=action, mark=mark, iif=iif)
    return Message(_DELRULE, _REQUEST, body, f"delete rule {words}")


def neighbour(index: int, ip: str, mac: str, *, permanent: bool = True) -> Message:
    """Say which MAC an address has on an interface, in place of what was known."""
    state = _NUD_PERMANENT if permanent else _NUD_REACHABLE
    body = (
        neighbour_header(packing.family(ip), index, state, 0)
        + packing.attribute(1, packing.packed(ip))
        + packing.attribute(2, packing.mac(mac))
    )
    return Message(_NEWNEIGH, _PUT, body, f"set neighbour {ip} on interface {index} to {mac}")


def neighbour_del(index: int, ip: str) -> Message:
    """Forget an address on an interface."""
    body = neighbour_header(packing.family(ip), index, 0, 0) + packing.attribute(1, packing.packed(ip))
    return Message(_DELNEIGH, _REQUEST, body, f"delete neighbour {ip} on interface {index}")


def _address(index: int, prefix: str, scope: str) -> bytes:
    packed, length = packing.prefix(prefix)
    header = struct.pack("=BBBBI", packing.family(prefix), length, 0, _SCOPE_OF[scope], index)
    return header + packing.attribute(1, packed) + packing.attribute(2, packed)


def _route(  # noqa: PLR0913 - what addition and deletion of a route share
    dst: str, gateway: str | None, dev: int | None, table: int, *, metric: int, src: str | None
) -> tuple[tuple[int, int, bytes], str]:
    """Return family, length of the prefix and attributes, and the route in words."""
    via = packing.packed(gateway) if gateway is not None else b""
    if dst == "default":
        family, length, found = (socket.AF_INET6 if len(via) == 16 else socket.AF_INET), 0, b""
    else:
        packed, length = packing.prefix(dst)
        family, found = packing.family(dst), packing.attribute(1, packed)
    if via:
        # a gateway of another family than the route is an RTA_VIA, its family in front
        same = len(via) == (4 if family == socket.AF_INET else 16)
        found += (
            packing.attribute(5, via)
            if same
            else packing.attribute(18, struct.pack("=H", packing.family(gateway or "")) + via)
        )
    for kind, number in ((4, dev), (6, metric or None), (15, table)):
        if number is not None:
            found += packing.u32(kind, number)
    if src is not None:
        found += packing.attribute(7, packing.packed(src))
    words = (
        f"{dst}{f' via {gateway}' if gateway else ''}{f' on interface {dev}' if dev else ''} in table {table}"
    )
    return (family, length, found), words


def _rule(  # noqa: PLR0913 - what addition and deletion of a rule share
    priority: int,
    src: str | None,
    dst: str | None,
    table: int,
    *,
    action: str,
    mark: int | None,
    iif: str | None,
) -> tuple[bytes, str]:
    found = packing.u32(6, priority)
    lengths = [0, 0]
    for place, kind, prefix in ((0, 1, dst), (1, 2, src)):
        if prefix is not None:
            packed, lengths[place] = packing.prefix(prefix)
            found += packing.attribute(kind, packed)
    if action == "table":
        found += packing.u32(15, table)
    if mark is not None:
        found += packing.u32(10, mark) + packing.u32(16, 0xFFFFFFFF)
    if iif is not None:
        found += packing.string(3, iif)
    number = table if action == "table" and table < 256 else 0
    header = _ROUTE.pack(packing.family(src or dst or ""), *lengths, 0, number, 0, 0, _ACTION_OF[action], 0)
    return header + found, f"{priority} from {src or 'all'} to {dst or 'all'} {action} {table}"
