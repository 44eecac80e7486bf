"""The owner's side of standing a lab up: payload, watcher, lease, and the wait until the lab is ready."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import tools
from harness.drivers.netns import watcher
from harness.drivers.netns.bind import bind
from harness.drivers.netns.layout import Payload, Start
from harness.drivers.netns.lower import lower
from harness.drivers.netns.sandbox import PRIVATE
from harness.errors import MissingCapability, StartError
from harness.identity import issue
from harness.plan import Bindings, Plan, Runtime, render

START_SECONDS = 30.0
_PROGRAMS = Path(harness.__file__).parent / "programs"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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


def binding(plan: Plan) -> Bindings:
    """Return this driver's bindings; the same for everyone who asks about the same plan."""
    return bind(plan, (_python(), "-S", "-E"))


def launch(plan: Plan, name: str, source: tuple[str, str]) -> Lease:
    """Stand a lab up and return the lease on it.

    Raises MissingCapability for a program or a kernel feature that is not there, StartError when a part of the lab
    does not come up; nothing is left of it then.
    """
    bindings = binding(plan)
    certificates = issue(plan.requests, plan.lab.mesh.ca.root, plan.lab.mesh.ca.intermediate)
    runtimes = render(plan, bindings, certificates)
    payload = _payload(plan, bindings, runtimes, name, source)
    memory = os.memfd_create("payload")
    os.write(memory, pickle.dumps(payload))
    os.lseek(memory, 0, os.SEEK_SET)
    status_read, status_write = os.pipe()
    lease_read, lease_write = os.pipe()
    argv = [sys.executable, "-P", "-m", watcher.__name__, name, str(owner_id()), str(crash_report(name))]
    argv += [str(fd) for fd in (memory, status_write, lease_read)]
    paths = [str(_PROGRAMS.parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
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


def _payload(
    plan: Plan, bindings: Bindings, runtimes: dict[str, Runtime], name: str, source: tuple[str, str]
) -> Payload:
    starts, found = [], {}
    for node, runtime in runtimes.items():
        for program in runtime.programs:
            word = program.argv[0]
            if word not in found:
                found[word] = word if word.startswith("/") else tools.find(word)
            starts.append(
                Start(
                    node,
                    program.name,
                    (found[word], *program.argv[1:]),
                    program.ready.by,
                    program.ready.value,
                    program.capable,
                    program.first,
                    program.environment,
                )
            )
    files = [
        (f"{bindings.folder(node)}/{file.path}", file.content, file.mode)
        for node, runtime in runtimes.items()
        for file in runtime.files
    ]
    files += [
        (f"{PRIVATE}/programs/{path.name}", path.read_text(encoding="utf-8"), 0o644)
        for path in sorted(_PROGRAMS.glob("*.py"))
    ]
    directories = dict.fromkeys(str(Path(path).parent) for path in found.values() if path.startswith("/"))
    return Payload(
        lab=name,
        source=source,
        layout=lower(plan, bindings, runtimes),
        starts=tuple(starts),
        files=tuple(files),
        keep=_kept(found.values()),
        path=":".join(dict.fromkeys([*_SYSTEM_PATH.split(":"), *directories])),
        library_path=tools.library_path(),
        start_seconds=START_SECONDS,
    )


def _kept(programs: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that must stay visible: interpreter, virtual environment, our package, private tools."""
    folders = {
        sys.prefix,
        sys.base_prefix,
        str(_PROGRAMS.parent),
        str(Path(_python()).resolve().parent),
    }
    # the one package that the lab process uses; `pip install --user` puts it into a home, which the sandbox hides
    waits = importlib.util.find_spec("tenacity")
    folders |= {str(Path(waits.origin).parents[1])} if waits and waits.origin else set()
    folders |= {str(Path(path).resolve().parent) for path in programs if path.startswith("/")}
    library = tools.library_path()
    if library:
        folders |= set(library.split(":"))
    return tuple(sorted(folders))


def _python() -> str:
    """Return the interpreter itself, not a virtual environment's: programs of ours need the standard library only."""
    return str(getattr(sys, "_base_executable", sys.executable))


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
