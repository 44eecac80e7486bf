"""The control protocol's server side: newline JSON on an abstract unix socket, a thread for each connection.

A request is {"id", "protocol", "op", ...}; its answer {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
Large results come as a memfd beside the answer; streams are never framed: exec passes descriptors. Who cannot be passed
descriptors, because other programs lie between, asks `inline`: memory files then stand in the answer, and in the
request, as `data` in base64, and `run` is there in place of `exec`.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

from harness import __version__, netlink
from harness.agent import PROTOCOL
from harness.agent import syscalls as sys_
from harness.agent.commands import Wrong
from harness.agent.operations import Operations

if TYPE_CHECKING:
    from harness.agent.lab_process import Lab

_MOST_DESCRIPTORS = 3


class Server:
    """Accepts the owner's connections, one thread each."""

    def __init__(self, lab: Lab, owner: int, control: socket.socket) -> None:
        self._lab = lab
        self._owner = owner
        self._control = control
        self._window = threading.Lock()

    def start(self) -> None:
        """Serve from now on."""
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def _accept(self) -> None:
        while True:
            link, _ = self._control.accept()
            _pid, uid, _gid = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (
                self._owner,
                os.geteuid(),
            ):  # under sudo the owner is who called it, and root is root
                link.close()
                continue
            connection = Connection(Operations(self._lab, self._window), link)
            threading.Thread(target=connection.serve, daemon=True).start()


class Connection:
    """One client: its requests, answered in turn."""

    def __init__(self, operations: Operations, link: socket.socket) -> None:
        self._operations = operations
        self._link = link

    def serve(self) -> None:
        """Answer until the client goes; then end what it started and give up its window."""
        try:
            rest = b""
            fds: list[int] = []
            while True:
                data, received = sys_.receive(self._link, 1 << 16, _MOST_DESCRIPTORS)
                if not data:
                    break
                fds += received
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    taken, fds = fds, []
                    self._answer(line, taken)
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            self._operations.end()
            self._link.close()

    def _answer(self, line: bytes, fds: list[int]) -> None:
        answer: dict[str, Any] = {"id": None, "ok": False}
        send: list[int] = []
        try:
            request = json.loads(line)
            answer["id"] = request.pop("id", None)
            inline = request.pop("inline", False)
            if "data" in request:
                fds.append(_as_memory(request.pop("data")))
            result = self._do(request, fds)
            if isinstance(result, tuple):
                result, send = result
            answer |= {"ok": True, "result": result}
            if inline and send:
                answer["data"] = _as_text(send)
        except (Wrong, TypeError, KeyError, ValueError, netlink.NetlinkError, OSError) as error:
            answer["error"] = (
                f"{type(error).__name__}: {error}" if not isinstance(error, Wrong) else str(error)
            )
        finally:
            for fd in fds:
                os.close(fd)
        try:
            data = json.dumps(answer).encode() + b"\n"
            sent = socket.send_fds(self._link, [data], send) if send else 0
            self._link.sendall(data[sent:])
        finally:
            for fd in send:
                os.close(fd)

    def _do(self, request: dict[str, Any], fds: list[int]) -> Any:
        if request.pop("protocol", None) != PROTOCOL:
            raise Wrong(
                f"this lab speaks protocol {PROTOCOL} of egresslab {__version__}; use that version, or `down`"
            )
        op = self._operations.table.get(request.pop("op", ""))
        if op is None:
            raise Wrong("unknown operation")
        if fds:
            request["fds"] = fds
        return op(**request)


def _as_memory(text: str) -> int:
    """Return a memory file with what stands in base64."""
    memory = os.memfd_create("data")
    with os.fdopen(os.dup(memory), "wb") as file:
        file.write(base64.b64decode(text))
    return memory


def _as_text(send: list[int]) -> str:
    """Return the content of the one memory file in base64, and let go of it."""
    with os.fdopen(send.pop(), "rb") as file:
        file.seek(0)
        return base64.b64encode(file.read()).decode()
