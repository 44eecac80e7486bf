"""What a pod has besides its network namespace: mounts and name service of its own, and a host name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from harness.agent import syscalls as sys_
from harness.agent.children import Place
from harness.agent.folders import PRIVATE
from harness.agent.layout import Space

_OWN_MEMORY = (("/tmp", 1777), ("/var/tmp", 1777), ("/dev/shm", 1777), ("/root", 755), ("/home", 755))  # noqa: S108
"""Folders that are each pod's own, with their modes; what one pod writes, another does not see."""


def make_pod(space: Space, net: int, keep: tuple[str, ...]) -> Place:
    """Give a pod its own mounts (only its own files to see, its own name service) and its own host name."""
    sys_.unshare(sys_.CLONE_NEWNS | sys_.CLONE_NEWUTS)
    socket.sethostname(space.hostname)
    own = f"{PRIVATE}/nodes/{space.name}"
    Path(own, "etc").mkdir(parents=True, exist_ok=True)
    Path(own, "etc/hosts").write_text(hosts_of(space), encoding="ascii")
    Path(own, "etc/hostname").write_text(space.hostname + "\n", encoding="ascii")
    Path(own, "etc/resolv.conf").touch()
    for name in ("resolv.conf", "hosts", "hostname"):
        sys_.bind(f"{own}/etc/{name}", f"/etc/{name}")
    etc = f"{PRIVATE}/host-etc"  # a container's is its own and not there
    _cover("/run", "mode=755", (own, f"{PRIVATE}/programs", *([etc] if Path(etc).is_dir() else []), *keep))
    for place, mode in _OWN_MEMORY:
        if Path(place).is_dir():
            _cover(place, f"mode={mode}", keep)
    mount = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    uts = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    return Place(net, mount, uts)


def _cover(place: str, mode: str, keep: tuple[str, ...]) -> None:
    """Mount fresh memory on a folder, with only the named folders below it shown again."""
    shown = {path: os.open(path, os.O_PATH) for path in keep if path.startswith(place + "/")}
    sys_.mount("tmpfs", place, "tmpfs", sys_.MS_NOSUID, mode)
    for path, fd in shown.items():
        Path(path).mkdir(parents=True)
        sys_.bind(f"/proc/self/fd/{fd}", path, recursive=True)
        os.close(fd)


def hosts_of(space: Space) -> str:
    """Return a pod's own host table, as the kubelet writes it: itself, and nobody else."""
    address = next((address.partition("/")[0] for nic in space.nics for address in nic.addresses), "")
    return f"127.0.0.1 localhost\n{address} {space.hostname}\n"
