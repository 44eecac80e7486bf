"""Interfaces, addresses, routes, rules and neighbours over raw rtnetlink, many in one system call.

Functions named after objects build messages; a Socket sends them. The kernel works through a batch in order
and answers once, so that a namespace costs two system calls. Interfaces are named by index: whoever builds a
namespace chooses the indexes, and nothing needs to be looked up.
"""

from __future__ import annotations

from harness.netlink.channel import NetlinkError, RouteEvent, Socket
from harness.netlink.messages import (
    MAIN,
    address,
    address_del,
    bridge,
    link_del,
    link_set,
    macvlan,
    neighbour,
    neighbour_del,
    route,
    route_del,
    rule,
    rule_del,
    veth,
)
from harness.netlink.records import Address, Link, Neighbour, Route, Rule
from harness.netlink.requests import Message
from harness.netlink.settings import ipv4_settings
from harness.netlink.traffic import as_on_wire, clsact, mirror
from harness.netlink.tunnels import fdb, geneve, ipip, vxlan

__all__ = [
    "MAIN",
    "Address",
    "Link",
    "Message",
    "Neighbour",
    "NetlinkError",
    "Route",
    "RouteEvent",
    "Rule",
    "Socket",
    "address",
    "address_del",
    "as_on_wire",
    "bridge",
    "clsact",
    "fdb",
    "geneve",
    "ipip",
    "ipv4_settings",
    "link_del",
    "link_set",
    "macvlan",
    "mirror",
    "neighbour",
    "neighbour_del",
    "route",
    "route_del",
    "rule",
    "rule_del",
    "veth",
    "vxlan",
]
