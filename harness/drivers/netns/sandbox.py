"""The sandbox's file system: the host's root read-only, memory where programs write, an /etc of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.agent import syscalls as sys_
from harness.agent.folders import PRIVATE, outermost

_MEMORY = ("run", "tmp", "home", "root", "dev/shm", "var/tmp")
_HOSTS = "127.0.0.1 localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"


@dataclass(frozen=True)
class Refused(Exception):
    """The kernel or the host's policy refused a step of the sandbox."""

    step: str
    reason: str

    def __str__(self) -> str:
        return f"{self.step}: {self.reason}"


def enter(keep: tuple[str, ...]) -> None:
    """Turn the calling process's mount namespace into the sandbox.

    `keep` are folders that programs need (interpreter, project, private tools); those that lie where memory
    is mounted are shown again, read-only, at their own path. Raises Refused, naming the step.
    """
    step = "start"
    try:
        step = "make mounts private"
        sys_.mount("none", "/", flags=sys_.MS_REC | sys_.MS_PRIVATE)
        kept = {path: os.open(path, os.O_PATH) for path in outermost(keep)}
        step = "mount memory"
        sys_.mount("tmpfs", "/tmp", "tmpfs", data="mode=755")  # noqa: S108 - hidden from the host by our namespace
        root = "/tmp/root"  # noqa: S108 - on the memory just mounted
        Path(root).mkdir()
        step = "bind the root read-only"
        sys_.bind("/", root, recursive=True)
        sys_.restrict(root, sys_.MOUNT_ATTR_RDONLY | sys_.MOUNT_ATTR_NOSUID, recursive=True)
        step = "mount memory in the sandbox"
        for place in _MEMORY:
            if Path(root, place).is_dir() and not Path(root, place).is_symlink():
                mode = "1777" if place in ("tmp", "var/tmp", "dev/shm") else "755"
                sys_.mount("tmpfs", f"{root}/{place}", "tmpfs", sys_.MS_NOSUID, f"mode={mode}")
        step = "show the interpreter and the project"
        for path, fd in kept.items():
            if any(path.startswith(f"/{place}/") for place in _MEMORY):
                target = root + path
                Path(target).mkdir(parents=True)
                sys_.bind(f"/proc/self/fd/{fd}", target, recursive=True)
                sys_.restrict(target, sys_.MOUNT_ATTR_RDONLY | sys_.MOUNT_ATTR_NOSUID, recursive=True)
            os.close(fd)
        step = "make /etc"
        _make_etc(root)
        step = "mount /proc"
        _mount_proc(root)
        step = "mount terminals"
        sys_.mount("devpts", f"{root}/dev/pts", "devpts", data="newinstance,ptmxmode=0666,mode=0620")
        if not Path(root, "dev/ptmx").is_symlink():
            sys_.bind(f"{root}/dev/pts/ptmx", f"{root}/dev/ptmx")
        step = "change the root"
        os.chdir(root)
        sys_.pivot_root(".", ".")
        sys_.unmount(".", sys_.MNT_DETACH)
        os.chdir("/")
        Path(PRIVATE).mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(step, str(error.strerror)) from error


def _make_etc(root: str) -> None:
    """Give the sandbox an /etc whose name files are its own; the rest leads to the host's, read-only."""
    host = f"{root}{PRIVATE}/host-etc"
    Path(host).mkdir(parents=True)
    sys_.bind("/etc", host, recursive=True)
    sys_.restrict(host, sys_.MOUNT_ATTR_RDONLY | sys_.MOUNT_ATTR_NOSUID, recursive=True)
    etc = f"{root}/etc"
    sys_.mount("tmpfs", etc, "tmpfs", sys_.MS_NOSUID, "mode=755")
    own = {"hosts": _HOSTS, "resolv.conf": "", "hostname": "egresslab\n", "nsswitch.conf": _NSSWITCH}
    for entry in os.scandir(host):
        if entry.name in own:
            continue
        target = Path(entry.path).readlink() if entry.is_symlink() else Path(PRIVATE, "host-etc", entry.name)
        Path(etc, entry.name).symlink_to(target)
    for name, text in own.items():
        Path(etc, name).write_text(text, encoding="utf-8")


def _mount_proc(root: str) -> None:
    proc = f"{root}/proc"
    sys_.mount("proc", proc, "proc", sys_.MS_NOSUID | sys_.MS_NODEV | sys_.MS_NOEXEC)
    net = os.open(f"{proc}/sys/net", os.O_PATH)
    sys_.bind(f"{proc}/sys", f"{proc}/sys")
    sys_.restrict(f"{proc}/sys", sys_.MOUNT_ATTR_RDONLY)
    sys_.bind(f"/proc/self/fd/{net}", f"{proc}/sys/net")
    os.close(net)
