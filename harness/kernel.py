"""What this machine's kernel lets us do, found out by doing it in namespaces that are thrown away.

Nothing here believes a version number or a configuration file: containers, security modules and kernel builds
differ in too many ways.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import netlink, tools
from harness.agent import syscalls as sys_
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
    answer = _inside(_enter, NAMESPACES)
    failed = answer.get("failed")
    return str(failed) if failed else None


def features() -> dict[str, str | None]:
    """Try each feature of the kernel in a network namespace that is thrown away.

    The keys are `link <kind>`, `nftables`, `conntrack events`, `NFLOG`, `TPACKET_V3` and copies of packets; the values
    None where it works, else the reason. Where no namespace can be made, the only key is `namespaces`.
    """
    answer = _inside(_try_features, sys_.CLONE_NEWUSER | sys_.CLONE_NEWNET)
    failed = answer.get("failed")
    return {"namespaces": str(failed)} if failed else answer


def _enter() -> dict[str, Any]:
    try:
        sandbox.enter(())
    except sandbox.Refused as refusal:
        return {"failed": str(refusal)}
    return {}


def _inside(work: Callable[[], dict[str, Any]], namespaces: int) -> dict[str, Any]:
    """Do `work` in new namespaces and return its answer; `failed` in it says why there is no other."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        here.close()
        _in_child(work, namespaces, there)
    there.close()
    with here:
        try:
            word = here.recv(65536)
            if word == b"unshared":
                _map_ids(child)
                here.send(b"mapped")
                word = here.recv(65536)
        except OSError as error:
            word = json.dumps({"failed": f"map user ids: {error.strerror}"}).encode()
    os.waitpid(child, 0)
    answer: dict[str, Any] = json.loads(word) if word else {"failed": "the probe died"}
    return answer


def _in_child(work: Callable[[], dict[str, Any]], namespaces: int, link: socket.socket) -> None:
    """Never returns: an exception that left this function would run the caller's code a second time."""
    try:
        try:
            sys_.unshare(namespaces)
            link.send(b"unshared")
            if link.recv(64) == b"mapped":
                if namespaces & sys_.CLONE_NEWPID and (first := os.fork()):
                    os.waitpid(first, 0)
                    os._exit(0)
                sys_.pass_capabilities_on()
                link.send(json.dumps(work()).encode())
        except OSError as error:
            link.send(json.dumps({"failed": f"make namespaces: {error.strerror}"}).encode())
    finally:
        os._exit(0)


def _map_ids(pid: int) -> None:
    """Map ids as a lab does: as root all that we have (only a process outside may), else our own."""
    process = Path(f"/proc/{pid}")
    everything = os.geteuid() == 0
    if not everything:
        (process / "setgroups").write_text("deny", encoding="ascii")
    for kind, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        rows = [row.split() for row in Path("/proc/self", kind).read_text(encoding="ascii").splitlines()]
        whole = "\n".join(f"{inside} {inside} {count}" for inside, _, count in rows)
        (process / kind).write_text(whole if everything else f"{own} {own} 1", encoding="ascii")


def _try_features() -> dict[str, Any]:
    answer: dict[str, Any] = {
        f"link {kind}": _try_link(kind, number) for number, kind in enumerate(LINK_KINDS)
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


def _try_link(kind: str, number: int) -> str | None:
    """Ask for a link without parameters: a kernel that has the kind accepts, or misses a parameter."""
    name = f"probe{number}\0".encode()
    info = _attribute(1, kind.encode() + b"\0")  # IFLA_INFO_KIND
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(3, name) + _attribute(18, info)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(_message(16, 0x0605, body))  # RTM_NEWLINK; REQUEST, ACK, CREATE, EXCL
        code = -struct.unpack_from("=i", route.recv(8192), 16)[0]
    if code in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
        return "this kernel has no such link" if code == errno.EOPNOTSUPP else os.strerror(code)
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
    netfilter.send(_message(4 << 8 | 1, 0x5, header + _attribute(1, b"\1")))
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


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
