"""The owner's side of standing a lab up: payload, watcher, lease, and the wait until the lab is ready."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.agent.state import PACKAGE, State, payload_of
from harness.drivers.netns import watcher
from harness.errors import MissingCapability, StartError


@dataclass
class Lease:
    """The owner's hold on a lab: the lab ends when this ends, unless it was released."""

    name: str
    fd: int
    phases: tuple[tuple[str, float], ...]
    process: subprocess.Popen[bytes]

    def release(self) -> None:
        """Let the lab stay up after this process."""
        os.write(self.fd, watcher.RELEASE)
        os.close(self.fd)
        self.fd = -1

    def end(self) -> None:
        """Take the lab down and wait until the kernel has taken everything back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.process.wait()


def owner_id() -> int:
    """Return the user the lab belongs to: under sudo, the one who called it."""
    return int(os.environ.get("SUDO_UID", os.geteuid())) if os.geteuid() == 0 else os.geteuid()


def crash_report(name: str) -> Path:
    """Return the file that a lab's watcher writes when the lab ends by itself and had something to say."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state, "egresslab", f"{name}.crash")


def launch(state: State, name: str, source: tuple[str, str]) -> Lease:
    """Stand a lab up and return the lease on it.

    Raises MissingCapability for a program or a kernel feature that is not there, StartError when a part of the lab
    does not come up; nothing is left of it then.
    """
    payload = payload_of(state, name, source)
    memory = os.memfd_create("payload")
    os.write(memory, pickle.dumps(payload))
    os.lseek(memory, 0, os.SEEK_SET)
    status_read, status_write = os.pipe()
    lease_read, lease_write = os.pipe()
    argv = [sys.executable, "-P", "-m", watcher.__name__, name, str(owner_id()), str(crash_report(name))]
    argv += [str(fd) for fd in (memory, status_write, lease_read)]
    paths = [str(PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if payload.library_path:
        environment["LD_LIBRARY_PATH"] = payload.library_path
    process = subprocess.Popen(
        argv, env=environment, pass_fds=(memory, status_write, lease_read), stdin=subprocess.DEVNULL, cwd="/"
    )
    for fd in (memory, status_write, lease_read):
        os.close(fd)
    crash_report(name).unlink(missing_ok=True)
    lease = Lease(name, lease_write, (), process)
    try:
        lease.phases = _await(status_read, name)
    except BaseException:
        lease.end()
        raise
    finally:
        os.close(status_read)
    return lease


def _await(status: int, name: str) -> tuple[tuple[str, float], ...]:
    with open(status, "rb", closefd=False) as lines:
        failure: dict[str, object] = {}
        for line in lines:
            facts = json.loads(line)
            if facts.get("ready"):
                return tuple((phase, seconds) for phase, seconds in facts["phases"])
            failure |= facts
            if "error" in facts and facts.get("kind") != "defect":
                break
    kind = failure.get("kind")
    error = failure.get("error") or f"the lab process ended without a word (status {failure.get('ended')})"
    if kind == "refused":
        raise MissingCapability(
            "sandbox",
            f"this machine does not allow the sandbox: {error}; `egresslab doctor` says how to mend it",
        )
    words = str(failure.get("stderr", "")).strip()
    raise StartError(f"lab {shlex.quote(name)} did not come up: {error}" + (f"\n{words}" if words else ""))
