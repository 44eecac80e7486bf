"""A Docker Engine for tests: the user's own where DOCKER_HOST names one, else one of ours that touches nothing here.

Ours is in namespaces of its own: network (its bridges and packet filter), processes (all of it ends with one of them),
mounts (its data is memory, and of /proc/sys only the network's part, its own, can be written). What it needs of the
machine is root, and Debian's packages docker.io, containerd, runc and iptables.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import ENVIRONMENT

from harness import ready

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 60.0
_PATH = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
_BEGIN = """\
set -e
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,ro,bind /proc/sys
mkdir -p "$1/memory"
mount -t tmpfs -o size=80% tmpfs "$1/memory"
ip link set lo up
exec dockerd --host "unix://$1/socket" --data-root "$1/memory/data" --exec-root "$1/memory/exec" \\
    --pidfile "$1/memory/pid" --cgroup-parent "$2" --storage-driver overlay2 --log-level warn
"""
_ENDS_WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
"""The engine is not to outlive a test run that is killed (prctl(2), PR_SET_PDEATHSIG)."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers at `host`; `pid` is one of its processes where it is ours, and None where it is not."""

    host: str
    pid: int | None

    def network_of(self) -> dict[str, str]:
        """Return interfaces, routes and packet filter of the network that the engine is in, if it is ours."""
        if self.pid is None:
            return {}
        enter = ("nsenter", "--target", str(self.pid), "--net", "--mount")
        commands = {"links": ("ip", "-o", "link"), "rules": ("iptables-save",), "routes": ("ip", "route")}
        return {
            name: _settled(subprocess.run((*enter, *argv), capture_output=True, text=True, check=True).stdout)
            for name, argv in commands.items()
        }


def _settled(text: str) -> str:
    """Leave out what changes by itself: comments with the time, counters, and whether a bridge without ports is up."""
    rows = [row.split(" [")[0] for row in text.splitlines() if not row.startswith("#")]
    return "\n".join(row.split("<")[0] if "<" in row else row.replace(" linkdown", "") for row in rows)


@contextmanager
def engine() -> Iterator[Engine]:
    """Have an engine, and DOCKER_HOST point to it; skips where there can be none, and says how to get one."""
    if host := os.environ.get("DOCKER_HOST"):
        yield Engine(host, None)
        return
    if shutil.which("dockerd", path=_PATH) is None or os.geteuid() != 0:
        pytest.skip(
            "needs a Docker Engine: DOCKER_HOST, or as root Debian's (.ci/setup for-tests installs it)"
        )
    with ExitStack() as undo:
        folder = tempfile.mkdtemp(prefix="egresslab-engine-")
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        group = f"egresslab-tests-{os.getpid()}"
        undo.callback(_remove_groups, group)
        log = undo.enter_context(Path(folder, "log").open("w+b"))
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            [sys.executable, "-c", _ENDS_WITH_US, *argv, "sh", "-c", _BEGIN, "sh", folder, f"/{group}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PATH": _PATH},
            start_new_session=True,
        )
        undo.callback(_end, process)
        _await(process, Path(folder, "socket"), Path(folder, "log"))
        for environment in (os.environ, ENVIRONMENT):
            environment["DOCKER_HOST"] = f"unix://{folder}/socket"
            undo.callback(environment.pop, "DOCKER_HOST")
        yield Engine(os.environ["DOCKER_HOST"], _child_of(process.pid))


def _await(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    def up() -> bool:
        if process.poll() is not None:
            pytest.fail(f"dockerd ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        return socket.exists() and _answers(socket)

    try:
        ready.until("dockerd answers", up, seconds=_PATIENCE, every=0.1)
    except ready.NotInTime:
        pytest.fail(f"dockerd does not answer:\n{log.read_text(errors='replace')}")


def _answers(path: Path) -> bool:
    import docker  # noqa: PLC0415 - costs 0.26 s

    client = docker.DockerClient(f"unix://{path}", timeout=5)
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the engine end its containers, then end whatever is left of it: all of it is in one PID namespace."""
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(_child_of(process.pid), signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _child_of(pid: int) -> int:
    """Return the first process of the engine's PID namespace: dockerd (proc(5), task/[tid]/children)."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


def _remove_groups(group: str) -> None:
    """Remove the control groups that the engine made, which are empty by now."""
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        for folder, _, _ in os.walk(top / group, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
