"""What the lab process records while it runs: frames, conntrack and NFLOG events, and every program's output.

One thread drains all of it. Readers take a mark, and later all that came since the mark; what could not be kept is
counted as lost, and a verdict that needs it is then `unknown`.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness import netlink
from harness.agent import syscalls as sys_
from harness.errors import LostEvidence
from harness.programs.conntrack import Events
from harness.programs.nflog import Listener
from harness.programs.tap import Tap

NFLOG_GROUP = 5
_MAX_BLOCK_BYTES = 512 * 1024 * 1024
_MAX_LINES = 200_000
_LONGEST_LINE = 64 * 1024

_LOSSES = {
    "tap": "frames dropped by the tap's ring",
    "conntrack": "overflows of conntrack events",
    "nflog": "losses of NFLOG entries",
    "routes": "overflows of changes of routes",
}

Mark = dict[str, dict[str, int]]

_CLOCK_SET_NS = 1_000_000
"""A step of the clock by more than this counts; how well two clocks can be read together is some microseconds."""


def clock_offset() -> int:
    """Return by how much the wall clock is ahead of the monotonic one, in ns; it changes only when the clock is set.

    The kernel slews both alike (clock_gettime(2)). Of several readings the one that was interrupted least counts.
    """
    readings = []
    for _ in range(5):
        begin, wall, end = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((end - begin, wall - (begin + end) // 2))
    return min(readings)[1]


@dataclass
class _Series:
    """A growing list whose oldest items may have been given up; positions count from the very first."""

    items: list[Any] = field(default_factory=list)
    dropped: int = 0

    @property
    def end(self) -> int:
        return self.dropped + len(self.items)

    def since(self, position: int) -> list[Any]:
        return self.items[max(0, position - self.dropped) :]

    def give_up(self, count: int) -> None:
        del self.items[:count]
        self.dropped += count


class Recorder:
    """Everything seen, by kind (`frames`, `conntrack`, `nflog`, `lines`, `routes`) and by node or program."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, _Series]] = {
            kind: {} for kind in ("frames", "conntrack", "nflog", "lines", "routes")
        }
        self._taps: dict[str, Tap] = {}
        self._conntrack: dict[str, Events] = {}
        self._nflog: dict[str, Listener] = {}
        self._routes: dict[str, netlink.Socket] = {}
        self._routes_lost: dict[str, int] = {}
        self._handlers: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll()
        self._failed: dict[int, str] = {}
        self._counting = threading.Lock()
        self._block_bytes = 0
        self.changed = threading.Condition()
        self._wake, self._over = os.eventfd(0), False
        self._register(self._wake, lambda: None)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def watch(self, node: str, tap: Tap | None, conntrack: Events, nflog: Listener) -> None:
        """Record a node from now on."""
        if tap is not None:
            self._taps[node] = tap
            frames = self._new("frames", node)
            self._register(tap.fileno(), lambda: self._keep_blocks(frames, tap.drain()))
        self._conntrack[node], self._nflog[node] = conntrack, nflog
        flows, entries = self._new("conntrack", node), self._new("nflog", node)
        self._register(conntrack.fileno(), lambda: self._keep(flows, conntrack.read()))
        self._register(nflog.fileno(), lambda: self._keep(entries, nflog.read()))

    def watch_routes(self, node: str, routes: netlink.Socket) -> None:
        """Record every change of a node's routes from now on, with the time at which it was read."""
        self._routes[node] = routes
        series = self._new("routes", node)

        def handle() -> None:
            try:
                events = routes.read_events()
            except LostEvidence:
                self._routes_lost[node] = self._routes_lost.get(node, 0) + 1
                return
            now = time.time_ns()
            self._keep(series, [(now, event) for event in events])

        self._register(routes.fileno(), handle)

    def forget(self, node: str) -> None:
        """Stop recording a node; what was recorded stays."""
        sources: list[Tap | Events | Listener | netlink.Socket | None] = [
            self._taps.pop(node, None),
            self._conntrack.pop(node),
            self._nflog.pop(node),
            self._routes.pop(node, None),
        ]
        for source in sources:
            if source is not None:
                self._handlers.pop(source.fileno(), None)
                with suppress(OSError):  # it failed before, and was taken out then
                    self._poll.unregister(source.fileno())
                source.close()

    def end(self) -> list[Tap]:
        """Record nothing more, and return the taps, for the caller to close."""
        self._over = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        return list(self._taps.values())

    def watch_output(self, program: str, pipe: int) -> int:
        """Record what a program prints, line by line, with the time at which each line was read.

        Returns where in the record its output begins.
        """
        series = self._new("lines", program)
        begins = series.end
        rest = b""

        def handle() -> None:
            nonlocal rest
            data = os.read(pipe, 1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            if not data:
                self._poll.unregister(pipe)
                os.close(pipe)
                del self._handlers[pipe]
            if (not data and rest) or len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            now = time.time_ns()
            self._keep(series, [(now, line.decode(errors="replace")) for line in lines])
            if len(series.items) > _MAX_LINES:
                series.give_up(_MAX_LINES // 2)

        self._register(pipe, handle)
        return begins

    def mark(self) -> Mark:
        """Return the present end of every series, and how much each source has lost so far."""
        lost = self._losses()
        with self.changed:
            ends = {
                kind: {name: series.end for name, series in named.items()}
                for kind, named in self._series.items()
            }
        return ends | {"lost": lost, "clock": {"offset": clock_offset()}}

    def since(self, mark: Mark, kinds: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
        """Return what was recorded since a mark, without series that gained nothing."""
        with self.changed:
            return {
                kind: {
                    name: found
                    for name, series in self._series[kind].items()
                    if (found := series.since(mark.get(kind, {}).get(name, 0)))
                }
                for kind in kinds
            }

    def wait_for(self, kind: str, mark: Mark, seconds: float) -> bool:
        """Return when something of a kind was recorded since the mark, or after `seconds`; say whether it was."""
        before, series = mark.get(kind, {}), self._series[kind]
        with self.changed:
            return self.changed.wait_for(
                lambda: any(one.end > before.get(name, 0) for name, one in series.items()), seconds
            )

    def lost(self, mark: Mark) -> dict[str, str]:
        """Return, by node or program, what evidence was lost since a mark."""
        before = mark.get("lost", {})
        moved = clock_offset() - mark["clock"]["offset"] if "clock" in mark else 0
        lost = {f"source {fd}": reason for fd, reason in self._failed.items()}
        if abs(moved) > _CLOCK_SET_NS:
            lost["clock"] = (
                f"the machine's clock was set by {moved / 1e6:+.1f} ms: no order of events is certain"
            )
        for source, count in self._losses().items():
            if count > before.get(source, 0):
                node, _, what = source.rpartition(" ")
                lost[node] = f"{count - before.get(source, 0)} {_LOSSES[what]}"
        with self.changed:
            for kind, named in self._series.items():
                for name, series in named.items():
                    if series.dropped > mark.get(kind, {}).get(name, 0):
                        lost[name] = f"{kind} recorded since the mark were given up to save memory"
        return lost

    def _losses(self) -> dict[str, int]:
        """Return what each source in the kernel says it could not deliver, since the lab began."""
        with self._counting:
            found = {f"{node} tap": tap.statistics()[1] for node, tap in self._taps.items()}
        found |= {f"{node} conntrack": events.lost for node, events in self._conntrack.items()}
        found |= {f"{node} routes": count for node, count in self._routes_lost.items()}
        return found | {f"{node} nflog": entries.lost for node, entries in self._nflog.items()}

    def blind(self, node: str) -> None:
        """Let a node's tap see nothing more: a fault on purpose, which every later barrier must report."""
        sys_.deafen(self._taps[node].fileno())

    def wait_for_tokens(
        self, wanted: dict[str, set[bytes]], mark: Mark, seconds: float
    ) -> dict[str, set[bytes]]:
        """Wait until each node's tap has recorded its tokens; return those still missing, by node."""
        missing = {node: set(tokens) for node, tokens in wanted.items()}
        position = dict(mark.get("frames", {}))

        def all_seen() -> bool:
            for node in list(missing):
                series = self._series["frames"].get(node)
                if series is None:
                    continue
                fresh = series.since(position.get(node, 0))
                position[node] = series.end
                for block in fresh:
                    missing[node] -= {token for token in missing[node] if token in block}
                if not missing[node]:
                    del missing[node]
            return not missing

        with self.changed:
            self.changed.wait_for(all_seen, seconds)
        return missing

    def _new(self, kind: str, name: str) -> _Series:
        return self._series[kind].setdefault(name, _Series())

    def _register(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def _keep(self, series: _Series, items: list[Any]) -> None:
        if items:
            with self.changed:
                series.items += items
                self.changed.notify_all()

    def _keep_blocks(self, series: _Series, blocks: list[bytes]) -> None:
        self._keep(series, blocks)
        self._block_bytes += sum(map(len, blocks))
        if self._block_bytes > _MAX_BLOCK_BYTES:
            with self.changed:
                for kept in self._series["frames"].values():
                    half = len(kept.items) // 2
                    self._block_bytes -= sum(map(len, kept.items[:half]))
                    kept.give_up(half)

    def _run(self) -> None:
        while not self._over:
            for fd, _ in self._poll.poll():
                handler = self._handlers.get(fd)
                try:
                    if handler is not None:
                        handler()
                except OSError as error:  # one failed source is lost evidence, not the end of all others
                    self._failed[fd] = str(error)
                    self._poll.unregister(fd)
