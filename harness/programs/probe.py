"""The probe engine: thousands of flows in one epoll loop, in one thread."""

from __future__ import annotations

import heapq
import itertools
import select
import ssl
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .flow import Flow, OpenSocket, Outcome, Probe
from .resolver import Resolver, look_up
from .tls_client import Offer
from .wire import EndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .wire import Steps, Wait

T = TypeVar("T")
_LOOKUPS = 32
"""How many questions to the lab's DNS are open at once."""
_LOOKUP_SECONDS = 5.0

__all__ = ["Engine", "Outcome", "Probe", "Resolver", "read_probe", "written_probe"]


@dataclass(eq=False)
class _Running(Generic[T]):
    """A flow under way, its place in the answer, and what it waits for."""

    index: int
    steps: Steps[T]
    wait: Wait | None = None
    fd: int = -1


def written_probe(probe: Probe) -> dict[str, Any]:
    """Return a probe's fields as JSON takes them; `read_probe` makes it of them again."""
    return asdict(probe) | {"send": probe.send.decode()}


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
        with _Loop[Outcome](len(probes)) as loop:
            resolvers: dict[str, Resolver] = {}

            def resolver_of(node: str) -> Resolver:
                if node not in resolvers:
                    resolvers[node] = self._resolver_of(node)
                return resolvers[node]

            addresses = self._looked_up(probes, resolver_of) if len(probes) > 1 else {}
            begun = time.monotonic()
            ports: set[tuple[str, str]] = set()
            for index, probe in enumerate(probes):
                while loop.active >= in_flight:
                    loop.turn()
                while time.monotonic() < begun + probe.after:
                    loop.turn(begun + probe.after)
                known = {} if probe.after else addresses
                flow = Flow(probe, self._open_socket, resolver_of, self._context, ports, known)
                loop.start(index, flow.run(started))
            while loop.active:
                loop.turn()
            return [outcome for outcome in loop.outcomes if outcome is not None]

    def _looked_up(
        self, probes: Sequence[Probe], resolver_of: Callable[[str], Resolver]
    ) -> dict[tuple[str, str], str]:
        """Return the addresses of names that several probes of a node begin with, each asked for once beforehand.

        A hundred probes that ask at once wait for the lab's DNS longer than a probe may take. What has no answer is
        left to the probes.
        """
        pairs = Counter(
            (probe.node, (probe.through or (probe.host,))[0]) for probe in probes if not probe.after
        )
        found: dict[tuple[str, str], str] = {}

        def lookup(node: str, host: str) -> Steps[None]:
            try:
                resolver = resolver_of(node)
                if resolver.known(host) is None:
                    deadline = time.monotonic() + _LOOKUP_SECONDS
                    asked = look_up(self._open_socket, node, resolver, host, deadline)
                    found[node, host] = yield from asked
            except (EndedError, OSError):
                return

        several = [pair for pair, count in pairs.items() if count > 1]
        with _Loop[None](len(several)) as loop:
            for index, (node, host) in enumerate(several):
                while loop.active >= _LOOKUPS:
                    loop.turn()
                loop.start(index, lookup(node, host))
            while loop.active:
                loop.turn()
        return found

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


class _Loop(Generic[T]):
    """One epoll, one heap of timers, and the flows that wait in them."""

    def __init__(self, count: int) -> None:
        self.outcomes: list[T | None] = [None] * count
        self.active = 0
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Running[T]] = {}
        self._timers: list[tuple[float, int, _Running[T]]] = []
        self._ticket = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in list(self._by_fd.values()):
            running.steps.close()
        self._epoll.close()

    def start(self, index: int, steps: Steps[T]) -> None:
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

    def _resume(self, running: _Running[T], events: int | None) -> None:
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
