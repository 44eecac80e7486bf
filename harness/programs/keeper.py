"""Keeps connections open, as an application with a pool of them does.

`python3 -m harness.programs.keeper CONFIG.json`, or this file's path in place of the module. The configuration says
`to` whom (`ip:port`) and how many `connections`.

It prints `connected` for each connection, with both ends; `ready` once all of them stand; `lost` for one that ended,
and `failed` with the reason for one that could not be made. Both are tried again.

Exit statuses: 0 after SIGTERM, 2 unusable configuration, 74 the log broke.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import time
from contextlib import suppress

if not __package__:
    # Started as a file: its folder is the package, whose parent goes to the end, so that it hides no library.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

from .events import EventLog, parsed, read_config, refuse, written

CONNECT_SECONDS = 1.0
RETRY_SECONDS = 0.2
PING_SECONDS = 5.0
"""How often a line is sent over each connection, so that no server takes it for idle."""


class Keeper:
    """The connections that are open, and how many there are to be."""

    def __init__(self, to: tuple[str, int], wanted: int, log: EventLog) -> None:
        """Begin with none."""
        self._to, self._wanted, self._log = to, wanted, log
        self._open: list[socket.socket] = []
        self._ready = False
        self._ping = time.monotonic() + PING_SECONDS

    def run(self) -> None:
        """Open what is missing, wait until one ends or is to be tried again; for ever."""
        while True:
            tried = all(self._connect() for _ in range(self._wanted - len(self._open)))
            if tried and not self._ready:
                self._ready = True
                self._log.write("ready", connections=len(self._open))
            readable, _, _ = select.select(self._open, [], [], PING_SECONDS if tried else RETRY_SECONDS)
            for connection in readable:
                self._read(connection)
            if time.monotonic() >= self._ping:
                self._ping = time.monotonic() + PING_SECONDS
                for connection in self._open:
                    with suppress(OSError):  # one that has ended is readable then
                        connection.sendall(b"ping\n")

    def _connect(self) -> bool:
        try:
            connection = socket.create_connection(self._to, timeout=CONNECT_SECONDS)
        except OSError as error:
            self._log.write("failed", reason=str(error))
            return False
        self._open.append(connection)
        self._log.write(
            "connected", local=written(connection.getsockname()), remote=written(connection.getpeername())
        )
        return True

    def _read(self, connection: socket.socket) -> None:
        """Take what the server sends, and notice that it ended."""
        with suppress(OSError):
            if connection.recv(1 << 16):
                return
        self._log.write("lost", local=written(connection.getsockname()))
        self._open.remove(connection)
        connection.close()


def main(argv: list[str]) -> int:
    """Run until SIGTERM."""
    config = read_config(argv)
    try:
        to, wanted = parsed(config["to"]), int(config["connections"])
    except (KeyError, TypeError, ValueError) as error:
        refuse(f"{argv[1]}: it needs `to` and `connections` ({type(error).__name__}: {error})")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Keeper(to, wanted, EventLog()).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
