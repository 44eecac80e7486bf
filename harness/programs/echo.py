"""A TCP echo that answers in capitals: `hi` is answered `HI`.

`python3 -m harness.programs.echo CONFIG.json`, or this file's path in place of the module. Configuration:

    {"name": "echo", "listen": "0.0.0.0:9000", "also": ["0.0.0.0:9001"]}

`also` may be left out: further addresses to listen on.

It prints `listening` for each address, `ready`, then for each connection `accept`, `answer` for each piece that
was answered, and `close` when both sides have ended or one broke; all with `conn`, `peer` and `local`. A client may
end its direction first, as `echo hi | nc -N` does, and still gets its answer.

Exit statuses: 0 after SIGTERM, 2 unusable configuration, 4 an address that cannot be listened on, 74 the log
broke.
"""

from __future__ import annotations

import itertools
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if not __package__:
    # Started as a file: its folder is the package, wherever it was put, so that its neighbours are found.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

if TYPE_CHECKING:
    from collections.abc import Sequence

from .events import CANNOT_LISTEN, EventLog, parsed, read_config, refuse, written

IDLE = 30.0
"""Seconds that a client may be silent."""
CHUNK = 65536


class Echo:
    """Listeners, of which each connection gets a thread; connections are numbered over all of them."""

    def __init__(self, addresses: Sequence[tuple[str, int]], log: EventLog) -> None:
        self._addresses = addresses
        self._log = log
        self._numbers = itertools.count(1)

    def open(self) -> None:
        """Listen and serve from then on.

        Raises OSError when an address cannot be listened on.
        """
        for address in self._addresses:
            listener = socket.create_server(address, backlog=1024)
            self._log.write("listening", local=written(listener.getsockname()))
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError as error:
                # Out of descriptors, most likely: the client queues until another connection has closed.
                self._log.write("accept-failed", reason=str(error))
                time.sleep(0.05)
                continue
            where = {
                "conn": next(self._numbers),
                "peer": written(peer),
                "local": written(sock.getsockname()),
            }
            self._log.write("accept", **where)
            threading.Thread(target=self._serve, args=(sock, where), daemon=True).start()

    def _serve(self, sock: socket.socket, where: dict[str, Any]) -> None:
        sock.settimeout(IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answered, reason = 0, "client ended"
        try:
            while data := sock.recv(CHUNK):
                # Before it is sent: who has the answer finds it in the log.
                self._log.write("answer", **where, bytes=len(data))
                # ASCII letters only, so that a piece that ends within a character stays what it was.
                sock.sendall(data.upper())
                answered += len(data)
        except OSError as error:
            reason = str(error)
        sock.close()
        self._log.write("close", **where, bytes=answered, reason=reason)


def main() -> None:
    """Run the configuration named on the command line until SIGTERM or SIGINT."""
    config = read_config(sys.argv)
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the first thread starts, so that only the wait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.stack_size(262144)
    log = EventLog()
    try:
        name = config["name"]
        addresses = [parsed(address) for address in (config["listen"], *config.get("also", ()))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        refuse(f"{sys.argv[1]}: unusable: {error!r}")
    try:
        Echo(addresses, log).open()
    except OSError as error:
        refuse(f"{name}: {error}", CANNOT_LISTEN)
    log.write("ready", name=name)
    signal.sigwait(signals)
    log.write("stopped", name=name)


if __name__ == "__main__":
    main()
