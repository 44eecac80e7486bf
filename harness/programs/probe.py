"""The probe engine: thousands of flows in one epoll loop, in one thread."""

from __future__ import annotations

import heapq
import itertools
import select
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .flow import Flow, OpenSocket, Outcome, Probe
from .resolver import Resolver
from .tls_client import Offer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .wire import Steps, Wait

__all__ = ["Engine", "Outcome", "Probe", "Resolver", "read_probe"]


@dataclass(eq=False)
class _Running:
    """A flow under way, its place in the answer, and what it waits for."""

    index: int
    steps: Steps[Outcome]
    wait: Wait | None = None
    fd: int = -1


def read_probe(fields: Mapping[str, Any]) -> Probe:
    """Return a probe of its fields as JSON brings them: lists for pairs, text for bytes."""
    through, offer = fields.get("through"), fields.get("offer")
    return Probe(
        **{
            **fields,
            "through": tuple(through) if through is not None else None,
            "send": fields.get("send", "").encode(),
            "offer": Offer(**offer) if offer is not None else None,
        }
    )


class Engine:
    """Runs probes from sockets that `open_socket(node, family, type)` opens in the node.

    `resolver_of(node)` gives the node's resolver. A failure of either (OSError) is the outcome `error` of
    that probe only. The secrets of TLS connections are appended to the file `key_log`, if one is named.
    """

    def __init__(
        self, open_socket: OpenSocket, resolver_of: Callable[[str], Resolver], key_log: str | None = None
    ) -> None:
        self._open_socket = open_socket
        self._key_log = key_log
        self._resolver_of = resolver_of
        self._contexts: dict[tuple[str, str] | None, ssl.SSLContext] = {}

    def run(
        self,
        probes: Sequence[Probe],
        in_flight: int = 64,
        started: Callable[[Probe, str], None] | None = None,
    ) -> list[Outcome]:
        """Run all probes in turn, at most `in_flight` at once, and return their outcomes in the same order.

        `started(probe, local)` is called before a flow's first packet (DNS queries apart) with the address it
        is bound to: the port is final, the address is 0.0.0.0 unless the probe has a `source`.
        """
        with _Loop(len(probes)) as loop:
            begun = time.monotonic()
            ports: set[tuple[str, str]] = set()
            for index, probe in enumerate(probes):
                while loop.active >= in_flight:
                    loop.turn()
                while time.monotonic() < begun + probe.after:
                    loop.turn(begun + probe.after)
                flow = Flow(probe, self._open_socket, self._resolver_of, self._context, ports)
                loop.start(index, flow.run(started))
            while loop.active:
                loop.turn()
            return [outcome for outcome in loop.outcomes if outcome is not None]

    def _context(self, certificate: tuple[str, str] | None) -> ssl.SSLContext:
        # From JSON it comes as a list.
        key = (certificate[0], certificate[1]) if certificate else None
        if key not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # As curl -k: who the server is gets judged from other evidence.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if key:
                context.load_cert_chain(*key)
            if self._key_log:
                context.keylog_filename = self._key_log
            self._contexts[key] = context
        return self._contexts[key]


class _Loop:
    """One epoll, one heap of timers, and the flows that wait in them."""

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.active = 0
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Running] = {}
        self._timers: list[tuple[float, int, _Running]] = []
        self._ticket = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in list(self._by_fd.values()):
            running.steps.close()
        self._epoll.close()

    def start(self, index: int, steps: Steps[Outcome]) -> None:
        """Take a flow on and run it to its first wait."""
        self.active += 1
        self._resume(_Running(index, steps), None)

    def turn(self, until: float | None = None) -> None:
        """Wait until something happens, or until then, and resume the flows that it happens to."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            when, _, running = heapq.heappop(self._timers)
            if running.wait is not None and running.wait.until == when:
                self._resume(running, 0)
        times = [when for when in (until, self._timers[0][0] if self._timers else None) if when is not None]
        if not self.active and until is None:
            return
        patience = max(0.0, min(times) - time.monotonic()) if times else None
        for fd, events in self._epoll.poll(patience):
            if fd in self._by_fd:
                self._resume(self._by_fd[fd], events)

    def _resume(self, running: _Running, events: int | None) -> None:
        before = running.wait
        try:
            wait = running.steps.send(events) if events is not None else next(running.steps)
        except StopIteration as done:
            running.wait = None
            self._by_fd.pop(running.fd, None)
            self.outcomes[running.index] = done.value
            self.active -= 1
            return
        if before is None or wait.sock is not before.sock:
            # Closing the socket before took it out of the epoll; its number may be this one's.
            self._by_fd.pop(running.fd, None)
            running.fd = wait.sock.fileno()
            self._by_fd[running.fd] = running
            self._epoll.register(running.fd, wait.events)
        elif wait.events != before.events:
            self._epoll.modify(running.fd, wait.events)
        running.wait = wait
        if not events or before is None or before.until != wait.until:
            heapq.heappush(self._timers, (wait.until, next(self._ticket), running))
