"""The owner's side of the control protocol, one connection to a lab that is up."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import struct
from pathlib import Path
from typing import Any

from harness import ready
from harness.agent import PROTOCOL
from harness.agent import syscalls as sys_
from harness.drivers.netns.launch import crash_report
from harness.drivers.netns.watcher import control_name
from harness.errors import GoneError, LabError

_PREFIX = "@egresslab/"
_DOWN_SECONDS = 15
"""More than the watcher gives the lab's first process to close what the kernel takes long over."""


def running(owner: int) -> tuple[str, ...]:
    """Return the names of the labs that a user has up, from the kernel's table of sockets (proc(5), net/unix)."""
    wanted = f"{_PREFIX}{owner}/"
    names = {
        path[len(wanted) :]
        for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        if len(fields := line.split(maxsplit=7)) == 8 and (path := fields[7]).startswith(wanted)
    }
    return tuple(sorted(names))


class Client:
    """A connection; requests are answered in turn."""

    def __init__(self, lab: str, owner: int) -> None:
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._number = 0
        self._rest = b""
        self.lab = lab
        try:
            self._link.connect("\0" + control_name(owner, lab))
        except OSError as error:
            self._link.close()
            raise GoneError(f"no lab named {lab!r} is up; `egresslab ls` lists those that are") from error

    def close(self) -> None:
        """End the connection, and with it what was started through it."""
        self._link.close()

    def call(self, op: str, *, fds: tuple[int, ...] = (), **fields: Any) -> Any:
        """Send a request and return its result; raises GoneError, or LabError with the lab's own sentence."""
        return self._call(op, fds, fields)[0]

    def call_for_fd(self, op: str, *, fds: tuple[int, ...] = (), **fields: Any) -> tuple[Any, int | None]:
        """Send a request; return its result and the descriptor that came beside it."""
        result, received = self._call(op, fds, fields)
        return result, received[0] if received else None

    def fetch(self, op: str, **fields: Any) -> Any:
        """Send a request whose result comes in a memory file."""
        _, fd = self.call_for_fd(op, **fields)
        if fd is None:
            raise GoneError("the lab sent no result")
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            return pickle.load(file)  # noqa: S301 - from a process of our own user, checked by SO_PEERCRED

    def fetch_bytes(self, op: str) -> bytes:
        """Send a request whose result is a memory file, and return it as it is."""
        _, fd = self.call_for_fd(op)
        if fd is None:
            raise GoneError("the lab sent no result")
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            return file.read()

    def watcher(self) -> int:
        """Return the process id of the lab's watcher, who bound the socket."""
        return int(struct.unpack("3i", self._link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    def _call(self, op: str, fds: tuple[int, ...], fields: dict[str, Any]) -> tuple[Any, list[int]]:
        self._number += 1
        request = json.dumps({"id": self._number, "protocol": PROTOCOL, "op": op, **fields}).encode() + b"\n"
        received: list[int] = []
        try:
            sent = socket.send_fds(self._link, [request], fds) if fds else 0
            self._link.sendall(request[sent:])
            while b"\n" not in self._rest:
                data, more = sys_.receive(self._link, 1 << 20, 4)
                received += more
                if not data:
                    raise ConnectionResetError
                self._rest += data
        except OSError as error:
            raise GoneError(f"lab {self.lab!r} went away{_last_words(self.lab)}") from error
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if not answer["ok"]:
            raise LabError(str(answer["error"]))
        return answer["result"], received


def _last_words(lab: str) -> str:
    report = crash_report(lab)
    try:
        # the watcher needs a moment to write it; most labs that go away were told to, and have none
        ready.until("a crash report", report.exists, seconds=0.2)
    except ready.NotInTime:
        return ""
    return f"; {report} has its last words"


def end(lab: str, owner: int) -> None:
    """Take a lab down, whatever state it is in: by the process that bound its socket.

    Raises GoneError when no lab of that name is up.
    """
    client = Client(lab, owner)
    try:
        pid = client.watcher()
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    finally:
        client.close()
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _DOWN_SECONDS)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 2)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
    ready.until(f"lab {lab!r} gone", lambda: lab not in running(owner), seconds=5)
