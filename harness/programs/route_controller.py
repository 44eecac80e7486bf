"""The route controller of a cluster node: sends watched pods' traffic to a gateway by policy routing.

`python3 -m harness.programs.route_controller CONFIG.json`, or this file's path in place of the module. The
configuration names two files: `state`, which says what is wanted (route_policy.py has its form) and may be replaced at
any time by renaming another over it; and `applied`, into which the SHA-256 of the state is written when the kernel has
all of it.

It looks at everything anew whenever the state file or an interface, address, route or rule of the node changed, and
every few seconds whatever happened: a lost event costs time, and nothing else. What is right already is left alone, so
that nothing breaks when the controller is started again; when it ends, all it made stays.

It prints `ready` when the first state is in the kernel, and then `changed` for each change, with what was added and
deleted; `closed` for a way out whose interface is not up; `unusable` for a state file that cannot be read, in place of
which the one before holds on; `refused` when the kernel would not do a part, which is tried again.

Exit statuses: 0 after SIGTERM, 2 unusable configuration or first state, 74 the log broke.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

if not __package__:
    # Started as a file: its folder is the package, and `harness` with the codec lies beside that folder.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

from harness import netlink
from harness.errors import LostEvidence

from .events import EventLog, read_config, refuse
from .route_policy import Change, State, change_to, shown, states_of

RESYNC_SECONDS = 5.0
RETRY_SECONDS = 0.2
"""How soon to look again where the kernel refused something, or where the state file cannot be watched."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x80  # RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE (linux/rtnetlink.h)
_MOVED_TO, _CLOSE_WRITE = 0x80, 0x8
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_READ = 1 << 16


class Controller:
    """What is wanted, what of it stands, and what says that either changed."""

    def __init__(self, state_file: Path, applied_file: Path, log: EventLog) -> None:
        """Read the first state; raises OSError or ValueError when there is none."""
        self._file, self._applied_file, self._log = state_file, applied_file, log
        self._route = netlink.Socket()
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._kernel.bind((0, _GROUPS))
        self._folder = _watched(state_file.parent)
        self._wake, waker = socket.socketpair()
        waker.settimeout(0)
        self._waker = waker
        self._digest = ""
        self._states = self._read()
        self._said: tuple[str, ...] = ()
        self._tables: set[int] = set()
        self.stopped = False

    def stop(self, *_: object) -> None:
        """End soon: a handler for signals."""
        self.stopped = True
        with suppress(BlockingIOError):
            self._waker.send(b"x")

    def run(self) -> None:
        """Reconcile until stopped."""
        first = True
        while not self.stopped:
            done = self._reconcile(first=first)
            first = first and not done
            self._await(RESYNC_SECONDS if done and self._folder is not None else RETRY_SECONDS)
            self._look_at_file()

    def _read(self) -> tuple[State, ...]:
        content = self._file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            states = states_of(json.loads(content))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._file}: {type(error).__name__}: {error}") from error
        self._digest = digest
        return states

    def _look_at_file(self) -> None:
        """Take over another state; one that cannot be read changes nothing."""
        try:
            self._states = self._read()
        except (OSError, ValueError) as error:
            self._log.write("unusable", reason=str(error))

    def _reconcile(self, *, first: bool) -> bool:
        """Bring the kernel to the state; tell whether all of it was done."""
        began = time.monotonic_ns()
        try:
            changes = self._differences()
            for batch in (batch for change in changes for batch in change.batches):
                self._route.send(batch)
        except (netlink.NetlinkError, LostEvidence) as error:
            self._log.write("refused", reason=str(error))
            return False
        self._tables = {way.table for state in self._states for way in state.ways.values()}
        self._write_applied()  # before it is told: who hears of a change may look at once
        if any(change.batches for change in changes) or first:
            self._tell(changes, began, first=first)
        return True

    def _differences(self) -> list[Change]:
        links = {link.name: link.index for link in self._route.links() if link.up}
        closed = tuple(dict.fromkeys(word for state in self._states for word in shown(state, links)))
        if closed != self._said:
            self._said = closed
            for sentence in closed:
                self._log.write("closed", reason=sentence)
        rules, routes = self._route.rules(), self._route.routes()
        return [change_to(state, links, rules, routes, self._tables) for state in self._states]

    def _tell(self, changes: Sequence[Change], began: int, *, first: bool) -> None:
        fields: dict[str, Any] = {
            "added": [word.description for one in changes for word in (*one.routes, *one.rules)],
            "deleted": [word.description for one in changes for word in (*one.rules_gone, *one.routes_gone)],
            "workload_addresses": sum(len(state.sources) for state in self._states),
            "milliseconds": round((time.monotonic_ns() - began) / 1e6, 3),
        }
        self._log.write("changed", **fields)
        if first:
            self._log.write("ready")

    def _write_applied(self) -> None:
        """Say which state stands; whole or not at all, and not again where it is said already."""
        with suppress(OSError):
            if self._applied_file.read_text(encoding="ascii") == self._digest:
                return
        fresh = self._applied_file.with_name(self._applied_file.name + ".new")
        fresh.write_text(self._digest, encoding="ascii")
        fresh.replace(self._applied_file)

    def _await(self, seconds: float) -> None:
        """Return when something changed or the time is over, with all that was told by then read away."""
        sources = [self._kernel.fileno(), self._wake.fileno()]
        if self._folder is not None:
            sources.append(self._folder)
        readable, _, _ = select.select(sources, [], [], seconds)
        for source in readable:
            with suppress(
                BlockingIOError, OSError
            ):  # ENOBUFS: events were lost, and everything is looked at anyway
                while True:
                    if source == self._kernel.fileno():
                        self._kernel.recv(_READ, socket.MSG_DONTWAIT)
                    elif source == self._folder:
                        os.read(source, _READ)
                    else:
                        self._wake.recv(1, socket.MSG_DONTWAIT)


def _watched(folder: Path) -> int | None:
    """Return a descriptor that is readable when a file of a folder is replaced (inotify(7)).

    None where the user has no instance left: then the file is looked at several times a second.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(_NONBLOCK | _CLOEXEC))
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(folder), _MOVED_TO | _CLOSE_WRITE) < 0:
        os.close(fd)
        return None
    return fd


def main(argv: list[str]) -> int:
    """Run until SIGTERM."""
    config = read_config(argv)
    try:
        state_file, applied_file = Path(config["state"]), Path(config["applied"])
    except (KeyError, TypeError) as error:
        refuse(f"{argv[1]}: it needs the paths `state` and `applied` ({type(error).__name__}: {error})")
    try:
        controller = Controller(state_file, applied_file, EventLog())
    except (OSError, ValueError) as error:
        refuse(f"the first state cannot be used: {error}")
    signal.signal(signal.SIGTERM, controller.stop)
    signal.signal(signal.SIGINT, controller.stop)
    controller.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
