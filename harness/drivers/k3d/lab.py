"""A running lab of this driver, as running.RunningLab says: one agent in each container, asked all at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.agent.state import State
from harness.drivers.k3d.link import Link
from harness.errors import GoneError, LabError
from harness.evidence import CommandResult
from harness.plan import Bindings, Plan
from harness.programs.bird_control import routes as bird_routes
from harness.programs.bird_control import sessions_down
from harness.programs.probe import Outcome, Probe
from harness.routing import Routing
from harness.routing import read as read_kernel
from harness.running import Mark, Raw

if TYPE_CHECKING:
    from docker import DockerClient

_EVERYTHING = ("lines", "conntrack", "nflog", "frames")
_KINDS = (*_EVERYTHING, "routes")
_SLICE_SECONDS = 0.02
"""For how long every agent waits before all are asked whether any has something."""


class ContainerLab:
    """A lab in containers; `links` are the connections to its agents, by container."""

    def __init__(  # noqa: PLR0913 - what a lab is, and how it ends
        self,
        client: DockerClient,
        name: str,
        state: State,
        source: tuple[str, str],
        phases: tuple[tuple[str, float], ...],
        containers: Mapping[str, str],
        holds: Mapping[str, str],
        links: Mapping[str, Link],
        ended: Callable[[], None] | None,
    ) -> None:
        """Take over open links; `holds` names each node's container, `ended` takes an owned lab down."""
        self.name = name
        self.source = source
        self.phases = phases
        self._engine = client
        self._state = state
        self._containers = containers
        self._holds = holds
        self._links = links
        self._ended = ended
        self._in_window = False

    @property
    def plan(self) -> Plan:
        """The plan as it stands now."""
        return self._state.plan

    @property
    def bindings(self) -> Bindings:
        """The addresses as they are now."""
        return self._state.bindings

    def issued(self) -> Mapping[str, tuple[str, ...]]:
        """Return the fingerprints (SHA-256) of each certificate's holder in order of issue; the last is in use."""
        return self._state.certificates.issued()

    def run(self, node: str, argv: Sequence[str], *, seconds: float, capable: bool = False) -> CommandResult:
        """Run a command to its end and return what it printed; after `seconds` it is ended, code None."""
        told = self._link(node).call("run", node=node, argv=list(argv), seconds=seconds, capable=capable)
        return CommandResult(tuple(argv), told["code"], told["stdout"], told["stderr"])

    def probe(self, probes: Sequence[Probe], in_flight: int = 64) -> Sequence[Outcome]:
        """Send flows from inside nodes; over connections of their own, so that a thread may do so amid other calls."""
        groups: dict[str, list[int]] = {}
        for number, probe in enumerate(probes):
            groups.setdefault(self._holds[probe.node], []).append(number)
        links = {name: self._connect(name) for name in groups}
        try:
            for name, numbers in groups.items():
                sent = [asdict(probes[one]) | {"send": probes[one].send.decode()} for one in numbers]
                links[name].ask("probe", probes=sent, in_flight=in_flight)
            found: dict[int, Outcome] = {}
            for name, numbers in groups.items():
                found |= zip(numbers, links[name].answer(), strict=True)
        finally:
            for link in links.values():
                link.close()
        return [found[number] for number in range(len(probes))]

    @contextmanager
    def window(self, seconds: float) -> Iterator[None]:
        """Have the lab to oneself; whoever has it already keeps it."""
        if self._in_window:
            yield
            return
        first = next(iter(self._links.values()))  # the lock of the first container is everybody's
        if not first.call("open_window", seconds=seconds):
            raise LabError(f"lab {self.name!r} is in use by another test run, for more than {seconds:g} s")
        self._in_window = True
        try:
            yield
        finally:
            self._in_window = False
            with suppress(GoneError):  # whoever noticed first has already said so
                first.call("close_window")

    def mark(self) -> Mark:
        """Return the present end of all recordings."""
        ends: dict[str, dict[str, int]] = {}
        began = time.time_ns()
        for told in self._all("mark"):
            for kind, named in told["ends"].items():
                ends.setdefault(kind, {}).update(named)
        return Mark(began, ends)

    def collect(self, mark: Mark, kinds: Sequence[str] = _EVERYTHING) -> Raw:
        """Return what was recorded since a mark."""
        recorded: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
        rest: dict[str, dict[str, Any]] = {"lost": {}, "ended": {}, "interfaces": {}}
        for found in self._all("collect", mark=mark.ends, kinds=list(kinds)):
            for kind, named in found["recorded"].items():
                recorded[kind].update(named)
            for what, named in rest.items():
                named.update(found[what])
        return Raw(**recorded, **rest)

    def wait_for(self, kind: str, mark: Mark, seconds: float) -> None:
        """Return when something of a kind was recorded since the mark, or after `seconds`."""
        deadline = time.monotonic() + seconds
        ends = {kind: mark.ends.get(kind, {})}
        while (left := deadline - time.monotonic()) > 0:
            if any(self._all("wait_for", kind=kind, mark=ends, seconds=min(left, _SLICE_SECONDS))):
                return

    def barrier(self, seconds: float) -> Sequence[str]:
        """Return the taps through which a nonce did not come back in time."""
        return sorted(tap for told in self._all("barrier", seconds=seconds) for tap in told["blind"])

    def blind(self, node: str) -> None:
        """Let a node's tap see nothing more, for good: the harness must then say `unknown`."""
        self._link(node).call("blind", node=node)

    def counters(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Return each node's named nftables counters."""
        return {node: values for told in self._all("counters") for node, values in told.items()}

    def secrets(self) -> bytes:
        """Return what programs logged of their TLS connections' secrets, in NSS's key log format."""
        for link in self._links.values():
            link.ask("secrets")
        return b"".join(link.answer_bytes() for link in self._links.values())

    def routing(self, node: str, control: str = "") -> Routing:
        """Return a node's routes as its kernel has them, and as the BIRD has them whose control socket is named."""
        found = self._link(node).call("routing", node=node, control=control)
        kernel, answer, protocols, silence = found
        told = bird_routes(answer) if control and not silence else None
        return Routing(read_kernel(kernel), told, silence, down=sessions_down(protocols))

    def network(self, node: str) -> Mapping[str, Any]:
        """Return a node's routes and interfaces as the kernel has them."""
        network: Mapping[str, Any] = self._link(node).call("network", node=node)
        return network

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Return the lab's programs; their process ids are those of their containers."""
        return [program for told in self._all("programs") for program in told]

    def kill(self, node: str, program: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of the lab's programs."""
        self._link(node).call("kill_program", node=node, name=program, number=int(number))

    def close(self) -> None:
        """End the connections, and the lab with them when this process owns it."""
        for link in self._links.values():
            link.close()
        if self._ended is not None:
            self._ended()
        self._engine.close()

    def _link(self, node: str) -> Link:
        if node not in self._holds:
            raise LabError(f"no node {node!r} in this lab")
        return self._links[self._holds[node]]

    def _connect(self, container: str) -> Link:
        return Link(self._engine, self._containers[container], container)

    def _all(self, op: str, **fields: Any) -> Iterable[Any]:
        """Ask every agent, and return their answers when all are there."""
        for link in self._links.values():
            link.ask(op, **fields)
        return [link.answer() for link in self._links.values()]
