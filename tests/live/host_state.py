"""What a lab must leave as it found it: the host's interfaces, routes, packet filter, sysctls and processes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.drivers import netns
from harness.drivers.netns.launch import owner_id
from harness.drivers.netns.watcher import control_name

_RESTLESS = (
    "/proc/sys/fs/aio-nr",
    "/proc/sys/fs/dentry-state",
    "/proc/sys/fs/file-nr",
    "/proc/sys/fs/inode-nr",
    "/proc/sys/fs/inode-state",
    "/proc/sys/fs/quota",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/pty/nr",
    "/proc/sys/kernel/random",
    "/proc/sys/net/netfilter/nf_conntrack_count",
)
"""Counters of the kernel that stand among the settings."""

_TABLES = ("fib_trie", "route", "if_inet6", "ipv6_route")


@dataclass(frozen=True)
class Host:
    """A picture of the host; equal pictures mean that nothing of it changed."""

    interfaces: tuple[str, ...]
    routes: tuple[str, ...]
    rules: str
    sysctls: tuple[tuple[str, bytes], ...]

    def differences(self, other: Host) -> list[str]:
        """Say what differs in the other picture, one line each."""
        found = [
            f"{what}: {getattr(self, what)!r} became {getattr(other, what)!r}"
            for what in ("interfaces", "routes", "rules")
            if getattr(self, what) != getattr(other, what)
        ]
        before, after = dict(self.sysctls), dict(other.sysctls)
        names = sorted({*before, *after})
        return found + [
            f"{name}: {before.get(name)!r} became {after.get(name)!r}"
            for name in names
            if before.get(name) != after.get(name)
        ]


def picture() -> Host:
    """Take a picture of the host; the packet filter's part is empty for those who may not see it."""
    listed = subprocess.run(("nft", "--stateless", "list", "ruleset"), capture_output=True, check=False)
    return Host(
        tuple(sorted(entry.name for entry in Path("/sys/class/net").iterdir())),
        tuple(Path("/proc/net", table).read_text(encoding="ascii") for table in _TABLES),
        listed.stdout.decode(),
        tuple(_sysctls()),
    )


def _sysctls() -> list[tuple[str, bytes]]:
    found = []
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = Path(folder, name)
            if str(path).startswith(_RESTLESS):
                continue
            try:
                found.append((str(path), path.read_bytes()))
            except OSError:
                continue
    return sorted(found)


def processes_of(lab: str) -> set[int]:
    """Return the lab's watcher, its PID 1 and a process between them: all have its name on the command line."""
    found = set()
    for pid in _processes():
        words = _read(f"/proc/{pid}/cmdline").split(b"\0")
        if b"harness.drivers.netns.watcher" in words and lab.encode() in words:
            found.add(pid)
    return found


def first_process_of(lab: str) -> int | None:
    """Return the lab's PID 1, by the host's number."""
    return next((pid for pid in processes_of(lab) if _namespace(pid) != _namespace(os.getpid())), None)


def watcher_of(lab: str) -> int | None:
    """Return the lab's watcher."""
    inside = {pid for pid in processes_of(lab) if _namespace(pid) != _namespace(os.getpid())}
    alike = processes_of(lab) - inside
    return next((pid for pid in sorted(alike) if _parent(pid) not in alike), None)


def sandboxes_of(lab: str) -> set[str]:
    """Return the process namespaces that the lab's processes are in, or make their children in."""
    found = set()
    for pid in processes_of(lab):
        found |= {_namespace(pid), _namespace(pid, "pid_for_children")}
    return found - {_namespace(os.getpid()), ""}


def left_of(lab: str, sandboxes: set[str]) -> list[str]:
    """Return what is still there of a lab: processes by name and by namespace, and its control socket.

    A zombie is nothing of the lab any more: PID 1, when its watcher was killed, waits for the host's init.
    """
    found = [f"process {pid} of the lab" for pid in processes_of(lab)]
    for pid in _processes():
        if _namespace(pid) in sandboxes:
            name, _, rest = _read(f"/proc/{pid}/stat").decode(errors="replace").partition(")")
            if rest and rest[1] != "Z":
                found.append(f"process {name}){rest[:2]} in its sandbox")
    sockets = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").split()
    if "@" + control_name(owner_id(), lab) in sockets:
        found.append("its control socket")
    if lab in netns.running():
        found.append("its name among the running labs")
    return found


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _namespace(pid: int, kind: str = "pid") -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def _parent(pid: int) -> int:
    stat = _read(f"/proc/{pid}/stat")
    return int(stat.rpartition(b")")[2].split()[1]) if stat else 0


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
