"""The commands that one client runs in nodes; they end with its connection at the latest."""

from __future__ import annotations

import os
import selectors
import signal
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness.agent.children import NOT_FOUND, Child, Command

if TYPE_CHECKING:
    from harness.agent.lab_process import Lab

_ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/root", "TERM": "xterm"}


class Wrong(Exception):
    """A request that cannot be done; the message is for the user."""


class Commands:
    """What one client started, by process id."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._children: dict[int, Child] = {}

    def end(self) -> None:
        """End what still runs."""
        for child in self._children.values():
            if child.code is None:
                _signal_session(child.pid, signal.SIGKILL)

    def start(  # noqa: PLR0913 - the fields of one request
        self,
        node: str,
        argv: list[str],
        environment: dict[str, str] | None = None,
        terminal: tuple[int, int] | None = None,
        capable: bool = False,  # noqa: FBT001, FBT002 - as above
        fds: list[int] | None = None,
        tag: str = "",
    ) -> Any:
        """Start a command; with `fds` on these streams, with `terminal` (rows, columns) on one of its own."""
        built = self._lab.spaces.get(node)
        if built is None:
            raise Wrong(f"no node {node!r} in this lab")
        full = _ENVIRONMENT | {"PATH": self._lab.payload.path} | (environment or {})
        if key_log := self._lab.payload.key_logs.get(node):
            full |= {"SSLKEYLOGFILE": key_log}  # what curl, and Python's ssl, go by
        if self._lab.payload.library_path:
            full["LD_LIBRARY_PATH"] = self._lab.payload.library_path
        master, slave = os.openpty() if terminal else (None, None)
        if terminal and slave is not None:
            termios.tcsetwinsize(slave, terminal)  # before the command can ask
        try:
            child = self._lab.children.start(
                Command(
                    argv,
                    full,
                    built.place,
                    tuple(fds) if fds and not terminal else None,  # type: ignore[arg-type]
                    os.ttyname(slave) if slave is not None else None,
                ),
                capabilities=capable,
            )
        except OSError as error:
            if master is not None:
                os.close(master)
            return {"child": None, "code": NOT_FOUND, "reason": f"{argv[0]}: {error.strerror}"}
        finally:
            if slave is not None:
                os.close(slave)
        self._children[child.pid] = child
        if tag:
            self._lab.tagged[tag] = child
        return {"child": child.pid, "started": child.started}, [master] if master is not None else []

    def run(self, node: str, argv: list[str], seconds: float, capable: bool) -> dict[str, Any]:  # noqa: FBT001 - the fields of one request
        """Run a command to its end, for who cannot pass descriptors; after `seconds` it is ended, code None."""
        nothing = os.open("/dev/null", os.O_RDONLY)
        pipes = [os.pipe() for _ in range(2)]
        fds = [nothing, pipes[0][1], pipes[1][1]]
        try:
            told = self.start(node, argv, capable=capable, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)
        (stdout, stderr), in_time = read_both((pipes[0][0], pipes[1][0]), seconds)
        if isinstance(told, dict):
            return {"code": told["code"], "stdout": "", "stderr": told["reason"] + "\n"}
        child = told[0]["child"]
        if not in_time:
            self.signal(child, signal.SIGKILL)
        code = self.wait(child, seconds)["code"]
        return {"code": code if in_time else None, "stdout": stdout, "stderr": stderr}

    def wait(self, child: int, seconds: float | None = None) -> dict[str, Any]:
        """Wait for a command to end; its code is None while it runs."""
        found = self._children[child]
        found.gone.wait(seconds)
        if found.code is not None:
            del self._children[child]
        return {"code": found.code, "ended": found.ended}

    def signal(self, child: int, number: int) -> None:
        """Send a signal to a command and all that it started."""
        if self._children[child].code is None:
            _signal_session(child, number)

    def signal_tagged(self, tag: str, number: int) -> None:
        """Send a signal to the command that somebody started by this tag, and to all that it started."""
        found = self._lab.tagged[tag]
        if found.code is None:
            _signal_session(found.pid, number)


def read_both(fds: tuple[int, int], seconds: float) -> tuple[tuple[str, str], bool]:
    """Read two pipes until both close; False when time ran out first."""
    texts: dict[int, bytes] = dict.fromkeys(fds, b"")
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(key.fd, 1 << 16)
                texts[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
        in_time = not selector.get_map()
    for fd in fds:
        os.close(fd)
    first, second = (texts[fd].decode(errors="replace") for fd in fds)
    return (first, second), in_time


def _signal_session(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
