"""A connection to the agent in a container: a program beside it, whose streams the engine carries to us.

So it works wherever the engine is (DOCKER_HOST), and no port is published anywhere.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
from dataclasses import is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from harness.agent import PROTOCOL
from harness.agent.container import CONTROL
from harness.errors import GoneError, LabError

if TYPE_CHECKING:
    from docker import DockerClient

HEADER = struct.Struct(">BxxxI")
STDOUT = 1
"""How the engine frames the two streams of a command: which, and how many bytes follow (attach, Docker Engine API)."""
_RELAY = f"until [ -S {CONTROL} ]; do sleep 0.05; done; exec nc -N -U {CONTROL}"
"""Waits until the agent is ready; ends with the container, or when our side of the stream does."""
_OURS = ("harness.programs.", "harness.netlink")


class Link:
    """One connection; requests are answered in turn. `ask` and `answer` apart let many agents work at once."""

    def __init__(self, client: DockerClient, container: str, node: str) -> None:
        self.node = node
        self._number = 0
        self._rest = b""
        self._frames = b""
        self._said = b""
        from docker.errors import DockerException  # noqa: PLC0415 - costs 0.26 s

        try:
            made = client.api.exec_create(container, ["/bin/sh", "-c", _RELAY], stdin=True)["Id"]
            self._stream = client.api.exec_start(made, socket=True)
        except (DockerException, OSError) as error:
            raise self._gone() from error
        # what the SDK returns is made for reading only; below it is the connection itself
        self._socket = getattr(self._stream, "_sock", self._stream)
        self._socket.settimeout(None)

    def close(self) -> None:
        """End the connection, and with it what was started through it."""
        self._stream.close()
        self._socket.close()

    def limit(self, seconds: float | None) -> None:
        """Have every answer come within so many seconds, or GoneError; None waits for as long as it takes."""
        self._socket.settimeout(seconds)

    def call(self, op: str, **fields: Any) -> Any:
        """Send a request and return its result; raises GoneError, or LabError with the agent's own sentence."""
        self.ask(op, **fields)
        return self.answer()

    def ask(self, op: str, **fields: Any) -> None:
        """Send a request; raises GoneError."""
        self._number += 1
        request = {"id": self._number, "protocol": PROTOCOL, "op": op, "inline": True, **fields}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> Any:
        """Return the result of the request that was sent; raises as `call` does."""
        answer = self._answer()
        return _loads(base64.b64decode(answer["data"])) if "data" in answer else answer["result"]

    def answer_bytes(self) -> bytes:
        """Return the memory file that answers the request that was sent, as it is."""
        return base64.b64decode(self._answer()["data"])

    def _answer(self) -> dict[str, Any]:
        pieces = [self._rest]
        while b"\n" not in pieces[-1]:
            self._rest = b"".join(pieces[-2:])  # for who asks what was said last
            pieces.append(self._receive())
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise LabError(f"{self.node}: {answer['error']}")
        return answer

    def _receive(self) -> bytes:
        """Return a piece of what the agent sent; the engine wraps pieces of both streams into frames."""
        while True:
            while len(self._frames) < HEADER.size:
                self._more()
            stream, length = HEADER.unpack_from(self._frames)
            while len(self._frames) < HEADER.size + length:
                self._more()
            piece = self._frames[HEADER.size : HEADER.size + length]
            self._frames = self._frames[HEADER.size + length :]
            if stream == STDOUT:
                return piece
            self._said += piece

    def _more(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError as error:
            raise GoneError(
                f"{self.node}: its agent did not answer within {self._socket.gettimeout():g} s"
            ) from error
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        self._frames += data

    def _gone(self) -> GoneError:
        """Say that the connection ended, with what the engine or the program in between said of it."""
        words = (self._said + self._rest).decode(errors="replace").strip()
        return GoneError(f"{self.node}: the connection to its agent ended" + (f": {words}" if words else ""))


class _Records(pickle.Unpickler):
    """Reads what an agent recorded: plain values, and classes of what runs inside nodes; nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(_OURS) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, tuple | Enum)):
                return found
        raise pickle.UnpicklingError(f"a container sent a {module}.{name}")


def _loads(data: bytes) -> Any:
    return _Records(io.BytesIO(data)).load()
