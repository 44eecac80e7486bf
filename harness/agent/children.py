"""The child table: PID 1 starts every program of the lab and reaps every process of the sandbox, in one place.

Nothing else in this process may wait for children (`subprocess` and asyncio's do): a second reaper steals exit
statuses, and a lost status would have to be scored as `unknown`.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TypeVar

from harness.agent import syscalls as sys_

T = TypeVar("T")
_RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""Signals that do what they do by default in what we start; in a job of a shell's background some are ignored."""
_MOST_CARRIED = 6
"""Three namespaces, three streams."""
NOT_FOUND = 127
"""The exit status shells, Docker and kubectl give a command that is not there."""


@dataclass(frozen=True)
class Place:
    """The namespaces a process starts in, as descriptors; None is the agent's own."""

    net: int | None
    mount: int | None = None
    uts: int | None = None


@dataclass(frozen=True)
class Command:
    """What to start: argv, environment, where, and with what streams.

    `terminal` is the path of a pty's slave, which becomes the controlling terminal and all three streams.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    place: Place
    streams: tuple[int, int, int] | None = None
    terminal: str | None = None


@dataclass
class Child:
    """A process that PID 1 started; `code` is its exit status, or minus the signal that ended it."""

    pid: int
    started: int
    code: int | None = None
    ended: int | None = None
    gone: threading.Event = field(default_factory=threading.Event)


class Worker:
    """A thread with a working directory of its own that visits namespaces; calls are done in turn.

    One that does not travel needs no privilege for it: it is where all of its places are.
    With `apart` it has a table of descriptors of its own too, and is handed those that a call needs (`carry`): a
    program that starts is given a copy of the table, of which all but three are closed then, and with the ten
    thousand of a lab of a thousand pods that takes 14 ms.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[], None] | None = None,
        *,
        travels: bool = True,
        apart: bool = False,
    ) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[object]]] = SimpleQueue()
        self._prepare = prepare
        self._travels = travels
        self._apart = apart
        self._sending = threading.Lock()
        if apart:
            self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=self._run, name=name, daemon=True).start()
        self.call(lambda: None)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return what it returns, or raise what it raises."""
        future: Future[T] = Future()
        self._calls.put((function, future))  # type: ignore[arg-type]
        return future.result()

    def visit(self, place: Place, function: Callable[[], T]) -> T:
        """Run a function inside a node's namespaces."""
        return self.call(lambda: self.inside(place, function))

    def carry(self, fds: Sequence[int], function: Callable[[list[int]], T]) -> T:
        """Run a function in the thread that is apart, with its own copies of descriptors; they are closed behind it."""
        if not self._apart:
            copies = [os.dup(fd) for fd in fds]
            return self.call(lambda: _closing(copies, function))
        future: Future[T] = Future()
        with self._sending:  # what is sent and what is called come in the same order
            socket.send_fds(self._here, [b"."], fds)
            self._calls.put((lambda: self._handed(function), future))  # type: ignore[arg-type]
        return future.result()

    def _handed(self, function: Callable[[list[int]], T]) -> T:
        return _closing(sys_.receive(self._there, 1, _MOST_CARRIED)[1], function)

    def inside(self, place: Place, function: Callable[[], T]) -> T:
        """Run a function inside a node's namespaces; for functions that run in this thread."""
        if place.net is None:
            return function()
        sys_.setns(place.net, sys_.CLONE_NEWNET)
        try:
            if place.mount is not None:
                sys_.setns(place.mount, sys_.CLONE_NEWNS)
            if place.uts is not None:
                sys_.setns(place.uts, sys_.CLONE_NEWUTS)
            return function()
        finally:
            self.go_home()

    def go_home(self) -> None:
        """Return to the agent's own namespaces; for functions that run in this thread."""
        sys_.setns(self._net, sys_.CLONE_NEWNET)
        sys_.setns(self._mount, sys_.CLONE_NEWNS)
        sys_.setns(self._uts, sys_.CLONE_NEWUTS)

    def _run(self) -> None:
        if self._apart:
            sys_.unshare(sys_.CLONE_FILES)
            sys_.close_all_but(self._there.fileno())
        if self._travels:
            sys_.unshare(sys_.CLONE_FS)
            self._net = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self._mount = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
            self._uts = os.open("/proc/thread-self/ns/uts", os.O_RDONLY)
        if self._prepare is not None:
            self._prepare()
        while True:
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller whole
                future.set_exception(error)
            del function, future


def _closing(fds: list[int], function: Callable[[list[int]], T]) -> T:
    try:
        return function(fds)
    finally:
        for fd in fds:
            os.close(fd)


class Children:
    """Start processes in nodes and know how each of them ended."""

    def __init__(self, file_limit: tuple[int, int], *, travels: bool = True) -> None:
        self._file_limit = file_limit
        self._table: dict[int, Child] = {}
        self._lock = threading.Condition()
        # a container's seccomp profile allows no unshare(2) of any kind; it has few descriptors
        give_none = sys_.keep_capabilities_to_itself if travels else sys_.give_up_capabilities
        self._programs = Worker("start-programs", sys_.pass_capabilities_on, travels=travels, apart=travels)
        self._workloads = Worker("start-workloads", give_none, travels=travels, apart=travels)
        threading.Thread(target=self._reap, name="reap", daemon=True).start()

    def start(self, command: Command, *, capabilities: bool) -> Child:
        """Start a process in a session of its own.

        Raises OSError (ENOENT, EACCES, ...) when the program cannot be started.
        """
        worker = self._programs if capabilities else self._workloads
        place = command.place
        spaces = (place.net, place.mount, place.uts)

        def start(fds: list[int]) -> Child:
            own = iter(fds)
            there = Place(*(None if fd is None else next(own) for fd in spaces))
            streams = tuple(own)
            moved = replace(command, place=there, streams=streams or None)  # type: ignore[arg-type]
            return worker.inside(there, lambda: self._spawn(moved))

        carried = [fd for fd in spaces if fd is not None]
        return worker.carry([*carried, *(command.streams or ())], start)

    def _spawn(self, command: Command) -> Child:
        actions: list[tuple[object, ...]] = []
        if command.terminal is not None:
            actions.append((os.POSIX_SPAWN_OPEN, 0, command.terminal, os.O_RDWR, 0))
            actions += [(os.POSIX_SPAWN_DUP2, 0, stream) for stream in (1, 2)]
        elif command.streams is not None:
            actions += [(os.POSIX_SPAWN_DUP2, fd, stream) for stream, fd in enumerate(command.streams)]
        with self._lock:  # the reaper files the exit under this lock, so that a quick death is not missed
            sys_.keep_descriptors_to_itself()
            pid = os.posix_spawnp(
                command.argv[0],
                list(command.argv),
                dict(command.environment),
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_RESET,
            )
            child = self._table[pid] = Child(pid, time.time_ns())
            self._lock.notify_all()
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or it is not ours any more
            resource.prlimit(pid, resource.RLIMIT_NOFILE, self._file_limit)
        return child

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                with self._lock:
                    self._lock.wait(timeout=0.1)
                continue
            if found is None:
                continue
            with self._lock:
                try:
                    _, status = os.waitpid(found.si_pid, 0)
                except ChildProcessError:
                    continue  # a program that could not be started: posix_spawn has taken its process back
                child = self._table.pop(found.si_pid, None)
                if child is not None:
                    child.ended = time.time_ns()
                    child.code = os.waitstatus_to_exitcode(status)
                    child.gone.set()
