"""What this machine's kernel lets us do, found out by doing it in namespaces that are thrown away.

Nothing here believes a version number or a configuration file: containers, security modules and kernel builds
differ in too many ways.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness import netlink, tools
from harness.agent import syscalls as sys_
from harness.agent.trial import attribute, inside, message, try_link
from harness.drivers.netns import sandbox
from harness.drivers.netns.watcher import NAMESPACES
from harness.errors import MissingCapability

if TYPE_CHECKING:
    from collections.abc import Callable

LINK_KINDS = ("veth", "bridge", "vxlan", "macvlan", "ipip", "geneve", "dummy", "vlan")

_NETLINK_NETFILTER = 12
_NFLOG_GROUP = 5
_CONNTRACK_NEW = 1  # the bit of NFNLGRP_CONNTRACK_NEW (linux/netfilter/nfnetlink_compat.h)
_SOL_PACKET, _PACKET_RX_RING, _PACKET_VERSION, _TPACKET_V3 = 263, 5, 10, 2
_PROBE_PORT = 9
_LOOPBACK = 1
"""The index that every namespace's loopback has."""
_RULES = f"""
add table inet probe
add map inet probe pool {{ type ipv4_addr : interval ipv4_addr; }}
add chain inet probe nat_out {{ type nat hook output priority -100; }}
add rule inet probe nat_out meta mark != 1338 tcp dport 15009 redirect to :15001
add chain inet probe nat_post {{ type nat hook postrouting priority 100; }}
add rule inet probe nat_post oifname "nowhere" masquerade
add chain inet probe filter_out {{ type filter hook output priority 0; }}
add rule inet probe filter_out tcp dport 15001 reject with tcp reset
add rule inet probe filter_out ct state new udp dport {_PROBE_PORT} counter
add rule inet probe filter_out udp dport {_PROBE_PORT} log group {_NFLOG_GROUP} queue-threshold 1
"""


def try_sandbox() -> str | None:
    """Perform the whole recipe of a lab's sandbox in a child that is thrown away.

    Returns None when every step worked, else the step that failed and the system's reason.
    """
    answer = inside(_enter, NAMESPACES)
    failed = answer.get("failed")
    return str(failed) if failed else None


def features() -> dict[str, str | None]:
    """Try each feature of the kernel in a network namespace that is thrown away.

    The keys are `link <kind>`, `nftables`, `conntrack events`, `NFLOG`, `TPACKET_V3` and copies of packets; the values
    None where it works, else the reason. Where no namespace can be made, the only key is `namespaces`.
    """
    answer = inside(_try_features, sys_.CLONE_NEWUSER | sys_.CLONE_NEWNET)
    failed = answer.get("failed")
    return {"namespaces": str(failed)} if failed else answer


def _enter() -> dict[str, Any]:
    try:
        sandbox.enter(())
    except sandbox.Refused as refusal:
        return {"failed": str(refusal)}
    return {}


def _try_features() -> dict[str, Any]:
    answer: dict[str, Any] = {
        f"link {kind}": try_link(kind, number) for number, kind in enumerate(LINK_KINDS)
    }
    answer["TPACKET_V3"] = _reason(_open_ring)
    answer["copies of packets (clsact, u32, mirred)"] = _reason(_mirror_loopback)
    answer["nftables"] = _load_rules()
    if answer["nftables"]:
        return {**answer, "conntrack events": "needs nftables", "NFLOG": "needs nftables"}
    events = _reason(lambda: _open_netfilter(_CONNTRACK_NEW))
    logs = _reason(_bind_log)
    answer["conntrack events"] = events or _reason(lambda: _hear(_open_netfilter(_CONNTRACK_NEW)))
    answer["NFLOG"] = logs or _reason(lambda: _hear(_bind_log()))
    return answer


def _reason(attempt: Callable[[], object]) -> str | None:
    try:
        done = attempt()
    except OSError as error:
        return error.strerror or str(error)
    if isinstance(done, socket.socket):
        done.close()
    return None


def _open_ring() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as ring:
        ring.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        ring.setsockopt(_SOL_PACKET, _PACKET_RX_RING, struct.pack("=7I", 65536, 4, 2048, 128, 1, 0, 0))


def _mirror_loopback() -> None:
    with netlink.Socket() as route:
        try:
            route.send([netlink.clsact(_LOOPBACK), netlink.mirror(_LOOPBACK, _LOOPBACK, incoming=False)])
        except netlink.NetlinkError as error:
            raise OSError(error.errno, error.text or str(error)) from error


def _load_rules() -> str | None:
    try:
        nft = tools.find("nft")
    except MissingCapability as missing:
        return str(missing)
    with tempfile.NamedTemporaryFile("w", suffix=".nft", encoding="utf-8") as rules:
        rules.write(_RULES)
        rules.flush()
        printed = tools.outputs({"nft": (nft, "-f", rules.name)}).get("nft", "nft did not end")
    return printed.strip().partition("\n")[0] or None


def _open_netfilter(groups: int) -> socket.socket:
    netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        netfilter.bind((0, groups))
    except OSError:
        netfilter.close()
        raise
    return netfilter


def _bind_log() -> socket.socket:
    """Subscribe to the log group as nfnetlink_log(NFULNL_CFG_CMD_BIND) does."""
    netfilter = _open_netfilter(0)
    header = struct.pack(">BBH", 0, 0, _NFLOG_GROUP)
    netfilter.send(message(4 << 8 | 1, 0x5, header + attribute(1, b"\1")))
    code = -struct.unpack_from("=i", netfilter.recv(8192), 16)[0]
    if code:
        netfilter.close()
        raise OSError(code, os.strerror(code))
    return netfilter


def _hear(witness: socket.socket) -> None:
    """Send one datagram over the loopback of this namespace and wait until `witness` tells of it."""
    with witness, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        with suppress(OSError):
            fcntl.ioctl(sender, 0x8914, struct.pack("16sh14x", b"lo", 0x1))  # SIOCSIFFLAGS, IFF_UP
        sender.sendto(b"probe", ("127.0.0.1", _PROBE_PORT))
        if not select.select([witness], [], [], 2.0)[0]:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel accepts the subscription and tells nothing")
