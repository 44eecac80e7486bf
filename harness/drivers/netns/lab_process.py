"""The lab process, PID 1 of the sandbox: builds what the payload says, starts the programs, serves control."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import ready
from harness.drivers.netns import sandbox
from harness.drivers.netns import syscalls as sys_
from harness.drivers.netns.build import Built, build
from harness.drivers.netns.children import Child, Children, Command, Worker
from harness.drivers.netns.layout import Payload, Start
from harness.drivers.netns.recorder import NFLOG_GROUP, Recorder
from harness.netlink import NetlinkError
from harness.programs.conntrack import Events
from harness.programs.nflog import Listener
from harness.programs.nft import NftError
from harness.programs.tap import Tap

_LISTEN = "0A"
_TAP_THREADS = 8
_POD_BLOCKS, _NODE_BLOCKS = 16, 32
"""Each block is given to us 4 ms after its first frame at the latest: the ring bridges 64 and 128 ms of ours."""
_MOST_FILES = 65536


class Failed(Exception):
    """The lab cannot stand; the message says which part and why."""


class RunningPrograms:
    """The programs that the lab file asked for, by (space, name)."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], tuple[Start, Child]] = {}

    def ended(self) -> dict[str, int]:
        """Return those that are not running any more, with their exit status."""
        return {
            f"{space} {name}": child.code
            for (space, name), (_, child) in self.table.items()
            if child.code is not None
        }


class Lab:
    """A lab that stands: its spaces, children, recordings. The only mutable thing of the project."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.phases: list[tuple[str, float]] = []
        self.stop = threading.Event()
        self._since = time.monotonic()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MOST_FILES), hard))
        self.children = Children((soft, hard))
        self.builder = Worker("build", sys_.pass_capabilities_on)
        self.recorder = Recorder()
        self.programs = RunningPrograms()
        self.spaces: dict[str, Built] = {}

    def stand_up(self) -> None:
        """Build and start everything; raises Failed."""
        self._write_files()
        self.phase("files")
        try:
            self.spaces = build(self.payload.layout, self.builder, self.payload.keep)
        except (NetlinkError, NftError, OSError) as error:
            raise Failed(f"network: {error}") from error
        self.phase("network")
        for start in self.payload.starts:
            if start.first:
                self.start(start)
        with ThreadPoolExecutor(_TAP_THREADS) as threads:
            for _ in threads.map(self._record, self.spaces.values()):
                pass
        self.phase("taps")
        for start in self.payload.starts:
            if not start.first:
                self.start(start)
        self.phase("start programs")
        self._await_programs()
        self.phase("programs ready")

    def phase(self, name: str) -> None:
        """Note how long the phase that ends now took, in seconds."""
        now = time.monotonic()
        self.phases.append((name, now - self._since))
        self._since = now

    def start(self, start: Start) -> Child:
        """Start one program of the lab, its output recorded."""
        reading, writing = os.pipe()
        nothing = os.open("/dev/null", os.O_RDONLY)
        environment = {"PATH": self.payload.path, "LANG": "C.UTF-8", **dict(start.environment)}
        if self.payload.library_path:
            environment["LD_LIBRARY_PATH"] = self.payload.library_path
        place = self.spaces[start.space].place
        try:
            child = self.children.start(
                Command(start.argv, environment, place, (nothing, writing, writing)),
                capabilities=start.capable,
            )
        except OSError as error:
            raise Failed(f"{start.space}: cannot start {start.argv[0]}: {error.strerror}") from error
        finally:
            os.close(writing)
            os.close(nothing)
        os.set_blocking(reading, False)
        self.recorder.watch_output(f"{start.space} {start.name}", reading)
        self.programs.table[start.space, start.name] = (start, child)
        return child

    def _write_files(self) -> None:
        for path, content, mode in self.payload.files:
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(content)

    def _record(self, built: Built) -> None:
        """Record a node; runs in a thread of its own, for making a ring waits for an RCU grace period."""
        sys_.setns(built.place.net, sys_.CLONE_NEWNET)
        tap = None
        if built.space.tapped:
            tap = Tap(blocks=_POD_BLOCKS if built.space.pod else _NODE_BLOCKS)
            tap.start()
        self.recorder.watch(built.space.name, tap, Events(), Listener(NFLOG_GROUP))

    def _await_programs(self) -> None:
        waiting = dict(self.programs.table)

        def all_ready() -> bool:
            for key, (start, child) in list(waiting.items()):
                if child.code is not None:
                    raise Failed(self._died(start, child.code))
                if self._is_ready(start, child):
                    del waiting[key]
            return not waiting

        try:
            ready.until("programs ready", all_ready, seconds=self.payload.start_seconds, every=0.01)
        except ready.NotInTime as error:
            start, _ = next(iter(waiting.values()))
            raise Failed(
                f"{start.space}: {start.name} was not ready ({start.ready_by} {start.ready_value}) "
                f"after {self.payload.start_seconds:g} s{self._last_words(start)}"
            ) from error

    def _is_ready(self, start: Start, child: Child) -> bool:
        match start.ready_by:
            case "listens":
                return _listens(child.pid, int(start.ready_value))
            case "log":
                lines = self.recorder.since({}, ["lines"])["lines"].get(f"{start.space} {start.name}", [])
                return any(start.ready_value in line for _, line in lines)
            case "admin":
                return _admin_ready(start.ready_value)
            case "routes":
                control, _, wanted = start.ready_value.partition(" ")
                _wake_bird(control)
                known = {route.dst for route in self.spaces[start.space].route.routes() if route.gateway}
                return set(wanted.split(",")) <= known
            case _:
                return True

    def _died(self, start: Start, code: int) -> str:
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        return f"{start.space}: {start.name} ended with {how}{self._last_words(start)}"

    def _last_words(self, start: Start) -> str:
        lines = self.recorder.since({}, ["lines"])["lines"].get(f"{start.space} {start.name}", [])
        return "; its last words:\n" + "\n".join(f"    {line}" for _, line in lines[-8:]) if lines else ""


def _listens(pid: int, port: int) -> bool:
    """Tell whether something listens on a TCP port in a process's network namespace (proc(5), net/tcp)."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _wake_bird(path: str) -> None:
    """Ask BIRD for its status: what it answers does not matter here, that it was woken does (plan.Ready)."""
    with socket.socket(socket.AF_UNIX) as link, contextlib.suppress(OSError):
        link.settimeout(0.2)
        link.connect(path)
        link.sendall(b"show status\n")
        link.recv(4096)


def _admin_ready(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(0.5)
        try:
            link.connect(path)
            link.sendall(b"GET /ready HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
            return b" 200 " in link.recv(256)
        except OSError:
            return False


def main(name: str, owner: int, payload_fd: int, status: int, control: socket.socket) -> int:
    """Run the lab until told to stop; what goes wrong before it stands goes to the status pipe in one line."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    begun = time.monotonic()
    try:
        with os.fdopen(payload_fd, "rb") as file:
            payload: Payload = pickle.load(file)  # noqa: S301 - written by our own parent, through a descriptor
        sandbox.enter(payload.keep)
        socket.sethostname(name[:63])
        os.environ["PATH"] = payload.path
        lab = Lab(payload)
        lab.stop = stop
        lab.phases.append(("sandbox", time.monotonic() - begun))
        lab.stand_up()
    except sandbox.Refused as error:
        _tell(status, error=str(error), kind="refused")
        return 1
    except Failed as error:
        _tell(status, error=str(error), kind="failed")
        return 1
    except Exception:  # noqa: BLE001 - a defect of ours; the watcher hands the traceback to the crash report
        traceback.print_exc(file=sys.stderr)
        _tell(status, error="the lab process failed; this is a defect of egresslab", kind="defect")
        return 1
    from harness.drivers.netns.control import Server  # noqa: PLC0415 - needed only once the lab stands

    Server(lab, owner, control).start()
    _tell(status, ready=True, phases=lab.phases)
    os.close(status)
    stop.wait()
    return 0


def _tell(status: int, **facts: object) -> None:
    os.write(status, json.dumps(facts).encode() + b"\n")
