"""What the kernel lets us do, found out by doing it in namespaces that are thrown away."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.agent import syscalls as sys_
from harness.capabilities import settled
from harness.plan import Plan, make_plan

_OF_CLUSTERS = {
    "istio": "only a cluster that has Istio installed has it: neither driver netns nor simulated cluster nodes do "
    "(--driver k3d on such a cluster; docs/k3d.md, Istio)"
}
_A_NETWORK = sys_.CLONE_NEWUSER | sys_.CLONE_NEWNET

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def able(plan: Plan, without: Collection[str] = ()) -> Plan:
    """Return the plan with fallbacks for what this kernel cannot do, and what is said to be missing besides.

    Raises MissingCapability where there is no fallback.
    """

    def lost(asked: Collection[str]) -> dict[str, str]:
        return missing(asked) | {one: "this driver does not have it" for one in asked if one in without}

    lab = settled(plan.lab, lost)
    return plan if lab is plan.lab else make_plan(lab, plan)


def missing(capabilities: Collection[str]) -> dict[str, str]:
    """Return which of these capabilities this kernel lacks, each with the reason: it is tried.

    Nodes that we make ourselves, on this kernel, have no Istio.
    """
    found = dict(missing_links(tuple(sorted(set(capabilities) - {*_OF_CLUSTERS, "ipv6"}))))
    if "ipv6" in capabilities and not Path("/proc/sys/net/ipv6").is_dir():
        found["ipv6"] = "this kernel has no IPv6"
    return found | {one: reason for one, reason in _OF_CLUSTERS.items() if one in capabilities}


@cache
def missing_links(kinds: tuple[str, ...]) -> dict[str, str]:
    """Return which kinds of link this kernel does not have, each with the reason; asked once in a process.

    Where no namespace can be made nothing is known, and nothing is said: no lab stands there anyway.
    """
    found = inside(lambda: {kind: try_link(kind, number) for number, kind in enumerate(kinds)}, _A_NETWORK)
    return {kind: found[kind] for kind in kinds if found.get(kind)}


def inside(work: Callable[[], dict[str, Any]], namespaces: int) -> dict[str, Any]:
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


def try_link(kind: str, number: int) -> str | None:
    """Ask for a link without parameters: a kernel that has the kind accepts, or misses a parameter."""
    name = f"probe{number}\0".encode()
    info = attribute(1, kind.encode() + b"\0")  # IFLA_INFO_KIND
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(3, name) + attribute(18, info)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(message(16, 0x0605, body))  # RTM_NEWLINK; REQUEST, ACK, CREATE, EXCL
        code = -struct.unpack_from("=i", route.recv(8192), 16)[0]
    if code in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
        return "this kernel has no such link" if code == errno.EOPNOTSUPP else os.strerror(code)
    return None


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return a netlink message of its own (netlink(7))."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute of such a message, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
