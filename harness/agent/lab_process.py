"""The lab process: builds what the payload says, starts the programs and reaps them, records what there is to see."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.agent import syscalls as sys_
from harness.agent.build import Built, Network
from harness.agent.children import Child, Children, Command, Worker
from harness.agent.folders import PRIVATE
from harness.agent.layout import LARGE, Payload, PlacedFile, Space, Start
from harness.agent.readiness import Failed, Running, until_ready
from harness.agent.recorder import NFLOG_GROUP, Recorder
from harness.netlink import NetlinkError, Socket
from harness.programs.conntrack import Events
from harness.programs.nflog import Listener
from harness.programs.nft import NftError
from harness.programs.tap import Tap

_TAP_THREADS = 64
"""Making a ring and closing one wait for every processor in the kernel; those that wait at once wait once."""
_HOSTS = f"{PRIVATE}/hosts"
_ALL_BLOCKS, _FEWEST_BLOCKS, _MOST_BLOCKS = 1024, 4, 128
"""Blocks of 128 KB, for all rings of a lab (128 MB) and for one. Each is given to us 8 ms after its first frame at the
latest: of 100 blocks a ring bridges 0.8 s, in which a busy machine may run others than us.
"""
_BLOCK_BYTES, _SMALL_BLOCK_BYTES = 1 << 17, 1 << 15
_RETIRE_MS, _RINGS_A_MS = 8, 4
_MOST_FILES = 65536


class Lab:
    """A lab that stands: its spaces, children, recordings. The only mutable thing of the project."""

    def __init__(self, payload: Payload, *, contained: bool = False) -> None:
        """Make it ready to stand up; `contained` in a container, whose /etc is its own already."""
        self.payload = payload
        self._contained = contained
        self.phases: list[tuple[str, float]] = []
        self.stop = threading.Event()
        self.held = threading.Event()
        self._since = time.monotonic()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MOST_FILES), hard))
        travels = not contained or bool(sys_.permitted_capabilities() >> sys_.CAP_SYS_ADMIN & 1)
        self.children = Children((soft, hard), travels=travels)
        self.builder = Worker("build", sys_.pass_capabilities_on, travels=travels)
        self.recorder = Recorder()
        self.programs: dict[tuple[str, str], Running] = {}
        self.tagged: dict[str, Child] = {}
        self.network: Network | None = None
        self._gone: dict[str, dict[int, str]] = {}

    @property
    def spaces(self) -> dict[str, Built]:
        """The spaces that stand, by node name."""
        return self.network.spaces if self.network is not None else {}

    def taps(self) -> dict[str, dict[int, str]]:
        """Return the names of taps by node and interface index, those of nodes that are gone too."""
        layout = self.payload.layout
        present = {name: built.tap_names(layout) for name, built in self.spaces.items()}
        return {name: self._gone.get(name, {}) | present.get(name, {}) for name in self._gone | present}

    def remove(self, name: str) -> None:
        """Take a node away; what was recorded of it stays."""
        if self.network is not None:
            self._gone = self.taps()  # its host's end of the link goes too
            self.recorder.forget(name)
            self.network.remove(name)

    def ended(self) -> dict[str, int]:
        """Return the programs that are not running any more, with their exit status."""
        return {
            f"{space} {name}": running.child.code
            for (space, name), running in self.programs.items()
            if running.child.code is not None
        }

    def stand_up(self) -> None:
        """Build and start everything; raises Failed."""
        layout = self.payload.layout
        for file in self.payload.files:
            write_file(file)
        self.write_hosts()
        if self._contained:
            Path("/etc/resolv.conf").write_text(
                "", encoding="ascii"
            )  # or the host's name servers would be asked
        else:
            sys_.bind(_HOSTS, "/etc/hosts")  # stays writable for us when /etc does not
            sys_.restrict("/etc", sys_.MOUNT_ATTR_RDONLY)  # nodes share it, and a pod's copy inherits this
        self.phase("files")
        try:
            self.network = Network(layout, self.builder, self.payload.keep)
            made = self.network.add(layout.spaces)
        except (NetlinkError, NftError, OSError) as error:
            raise Failed(f"network: {error}") from error
        self.phase("network")
        first = [self.start(start) for start in self.payload.starts if start.first]
        self.record(made)
        self.phase("taps")
        rest = [self.start(start) for start in self.payload.starts if not start.first]
        self.phase("start programs")
        until_ready(first + rest, self.spaces, self.recorder, self.payload.start_seconds)
        self.phase("programs ready")

    def record(self, made: Iterable[Built]) -> None:
        """Record nodes from now on."""
        with ThreadPoolExecutor(_TAP_THREADS) as threads:
            for _ in threads.map(self._record, made):
                pass

    def close(self) -> None:
        """Give back what the kernel takes long over: packet sockets, one after the other when a process just ends."""
        sources = self.recorder.end()
        raw = [built.raw for built in self.spaces.values()]
        with ThreadPoolExecutor(_TAP_THREADS) as threads:
            for _ in threads.map(lambda source: source.close(), [*sources, *raw]):
                pass

    def phase(self, name: str) -> None:
        """Note how long the phase that ends now took, in seconds."""
        now = time.monotonic()
        self.phases.append((name, now - self._since))
        self._since = now

    def start(self, start: Start) -> Running:
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
        first_line = self.recorder.watch_output(f"{start.space} {start.name}", reading)
        running = self.programs[start.space, start.name] = Running(start, child, first_line)
        return running

    def write_hosts(self) -> None:
        """Write the agent's own host table: the nodes outside pods."""
        text = f"127.0.0.1 localhost\n{self.payload.layout.hosts}"
        Path("/etc/hosts" if self._contained else _HOSTS).write_text(text, encoding="ascii")

    def _record(self, built: Built) -> None:
        """Record a node; runs in a thread of its own, for making a ring waits for an RCU grace period."""
        if built.place.net is not None:
            sys_.setns(built.place.net, sys_.CLONE_NEWNET)
        tap = None
        if built.space.tapped:
            tap = Tap(*ring_of(built.space, self.payload.layout.spaces))
            tap.start()
        self.recorder.watch(built.space.name, tap, Events(), Listener(NFLOG_GROUP))
        if not built.space.pod:
            routes = Socket()
            routes.subscribe()
            self.recorder.watch_routes(built.space.name, routes)


def ring_of(space: Space, spaces: Sequence[Space]) -> tuple[int, int, int]:
    """Return a ring's block size (bytes), its blocks, and after how many ms a block is given to us.

    In a large lab pods get little, since what they send passes nodes and what is outside too; and the more pods,
    the less often the kernel looks after theirs: a thousand rings at 8 ms took it more than one processor.
    """
    large = len(spaces) > LARGE
    others = sum(not one.pod for one in spaces) if large else len(spaces)
    blocks = max(_FEWEST_BLOCKS, min(_MOST_BLOCKS, (_ALL_BLOCKS << large) // max(1, others)))
    if not space.pod:
        return _BLOCK_BYTES, blocks, _RETIRE_MS
    retire = max(_RETIRE_MS, len(spaces) // _RINGS_A_MS)
    return (_SMALL_BLOCK_BYTES, _FEWEST_BLOCKS, retire) if large else (_BLOCK_BYTES, blocks, retire)


def write_file(file: PlacedFile) -> None:
    """Write a file of the payload, whole or not at all."""
    target = Path(file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        stream.write(file.content)
    fresh.replace(target)
