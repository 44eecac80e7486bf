"""What every program here prints: one JSON object a line on standard output, written before the call returns.

A line has `time` (nanoseconds since the epoch), `event`, and the event's own fields. Socket addresses are
written `ip:port`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

UNUSABLE_CONFIG = 2
CANNOT_LISTEN = 4
CANNOT_LOG = 74
"""Exit statuses; 74 is EX_IOERR of sysexits.h."""


class EventLog:
    """Writes events to a descriptor, from any thread, each line whole."""

    def __init__(self, descriptor: int = 1) -> None:
        self.muted = False
        self._descriptor = descriptor
        self._turn = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Write one event.

        Ends the process with status 74 when that fails: what goes on unrecorded can be mistaken for nothing.
        """
        with self._turn:
            if self.muted:
                return
            line = json.dumps({"time": time.time_ns(), "event": event, **fields}) + "\n"
            rest = memoryview(line.encode())
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                os._exit(CANNOT_LOG)


def written(address: tuple[Any, ...]) -> str:
    """Write a socket address as `ip:port`, of IPv6 as `[ip]:port` (RFC 3986, section 3.2.2)."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def parsed(text: str) -> tuple[str, int]:
    """Read `ip:port`, or `[ip]:port`.

    Raises ValueError when it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not ip:port")
    return host.strip("[]"), int(port)


def read_config(argv: list[str]) -> Any:
    """Return the decoded JSON of the file that is the only argument.

    Ends the process with status 2 when there is none.
    """
    if len(argv) != 2:
        refuse("one argument is expected: the configuration, a JSON file")
    try:
        with open(argv[1], "rb") as file:  # noqa: PTH123 - pathlib costs a third of this program's start-up
            return json.load(file)
    except (OSError, ValueError) as error:
        refuse(f"{argv[1]}: {error}")


def refuse(sentence: str, status: int = UNUSABLE_CONFIG) -> NoReturn:
    """Say on standard error why this program does not run, and end it."""
    sys.stderr.write(f"{sentence}\n")
    sys.exit(status)
