"""A command in a node on our own streams, or on a terminal: the engine carries them to a program beside the agent."""

from __future__ import annotations

import os
import select
import socket
import termios
import threading
import tty
from contextlib import suppress
from typing import TYPE_CHECKING

from harness.drivers.k3d.link import HEADER, STDOUT

if TYPE_CHECKING:
    from docker import DockerClient

_LOOK_AT_SIZE_SECONDS = 0.5


class Session:
    """One command that runs; a thread copies its streams."""

    def __init__(
        self,
        client: DockerClient,
        container: str,
        words: list[str],
        fds: tuple[int, int, int] | None,
        size: tuple[int, int],
    ) -> None:
        """Start it on these streams; without any on a terminal of `size` (rows, columns), whose end is `master`."""
        self._client = client
        self._made = client.api.exec_create(
            container, ["python3", "-S", "-m", "harness.agent.enter", *words], stdin=True, tty=fds is None
        )["Id"]
        self._stream = client.api.exec_start(self._made, socket=True, tty=fds is None)
        self._socket = getattr(self._stream, "_sock", self._stream)
        self._socket.settimeout(None)
        self.master: int | None = None
        self._size = size
        if fds is None:
            client.api.exec_resize(self._made, height=size[0], width=size[1])
            self.master, slave = os.openpty()
            tty.setraw(slave)  # the terminal in the container is the one that does what terminals do
            termios.tcsetwinsize(slave, size)
            fds = (slave, slave, slave)
        self._fds = fds
        self._rest = b""
        self._copying = threading.Thread(target=self._copy, name="streams", daemon=True)
        self._copying.start()

    def wait(self, seconds: float) -> int | None:
        """Return the command's exit status; None while it runs."""
        self._copying.join(seconds)
        if self._copying.is_alive():
            return None
        code: int | None = self._client.api.exec_inspect(self._made)["ExitCode"]
        return code

    def _copy(self) -> None:
        """Copy until the engine's end of the stream closes, which is when the command has ended."""
        watched = [self._socket, self._fds[0]]
        with suppress(OSError):
            while True:
                found = select.select(watched, [], [], _LOOK_AT_SIZE_SECONDS)[0]
                if self.master is not None:
                    self._follow_size()
                if self._socket in found:
                    data = self._socket.recv(1 << 16)
                    if not data:
                        break
                    self._take(data)
                if self._fds[0] in found:
                    data = os.read(self._fds[0], 1 << 16)
                    if data:
                        self._socket.sendall(data)
                    else:
                        watched.remove(self._fds[0])
                        self._socket.shutdown(socket.SHUT_WR)
        if self.master is not None:
            os.close(self._fds[0])  # whoever has the other end learns that the terminal is gone
        self._stream.close()

    def _take(self, data: bytes) -> None:
        """Pass on what the command printed; without a terminal the engine says of each piece on which stream."""
        if self.master is not None:
            _write(self._fds[1], data)
            return
        self._rest += data
        while len(self._rest) >= HEADER.size:
            stream, length = HEADER.unpack_from(self._rest)
            if len(self._rest) < HEADER.size + length:
                return
            _write(self._fds[1 if stream == STDOUT else 2], self._rest[HEADER.size : HEADER.size + length])
            self._rest = self._rest[HEADER.size + length :]

    def _follow_size(self) -> None:
        size = termios.tcgetwinsize(self._fds[0])
        if size != self._size:
            self._size = size
            self._client.api.exec_resize(self._made, height=size[0], width=size[1])


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
