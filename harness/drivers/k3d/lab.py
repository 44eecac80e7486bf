"""A running lab of this driver, as running.RunningLab says: one agent in each container, asked all at once."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.agent.change import Change
from harness.agent.changeable import Asked, Changeable
from harness.agent.layout import Payload
from harness.agent.state import State, payload_of
from harness.drivers.k3d import outside, parts
from harness.drivers.k3d.differences import compare
from harness.drivers.k3d.fleet import Fleet
from harness.drivers.k3d.session import Session
from harness.errors import LabError
from harness.evidence import CommandResult
from harness.mutation import Mutation
from harness.programs.bird_control import routes as bird_routes
from harness.programs.bird_control import sessions_down
from harness.programs.probe import Outcome, Probe, written_probe
from harness.routing import Routing
from harness.routing import read as read_kernel
from harness.running import Mark, Raw

_EVERYTHING = ("lines", "conntrack", "nflog", "frames")
_KINDS = (*_EVERYTHING, "routes")
_SLICE_SECONDS = 0.02
"""For how long every agent waits before all are asked whether any has something."""


class ContainerLab(Changeable):
    """A lab in containers; `ended` takes an owned one down, `kept` notes what one that stays has become."""

    LACKS = ("ipv6",)

    def __init__(  # noqa: PLR0913 - what a lab is, and what comes of it
        self,
        fleet: Fleet,
        state: State,
        source: tuple[str, str],
        phases: tuple[tuple[str, float], ...],
        ended: Callable[[], None] | None = None,
        kept: Callable[[State, tuple[str, str]], None] | None = None,
    ) -> None:
        """Take over a fleet that stands."""
        super().__init__(state, fleet.lab, source, phases)
        self._fleet = fleet
        self._ended = ended
        self._kept = kept
        self._sessions: list[Session] = []
        self._tags: list[tuple[str, str]] = []

    @property
    def _first(self) -> Asked:
        return self._fleet.first

    def run(self, node: str, argv: Sequence[str], *, seconds: float, capable: bool = False) -> CommandResult:
        """Run a command to its end and return what it printed; after `seconds` it is ended, code None."""
        told = self._fleet.link(node).call(
            "run", node=node, argv=list(argv), seconds=seconds, capable=capable
        )
        return CommandResult(tuple(argv), told["code"], told["stdout"], told["stderr"])

    def interactive(
        self,
        node: str,
        argv: Sequence[str],
        fds: tuple[int, int, int] | None,
        size: tuple[int, int] = (24, 80),
    ) -> tuple[int | None, int | None]:
        """Start a command on our own streams, or on a new terminal of `size` (rows, columns) when `fds` is None.

        Returns (child number, the terminal's master). A program that is not there ends with 127.
        """
        capable = self.plan.node(node).placement != "pod"
        number = len(self._sessions)
        tag = f"{os.getpid()}.{number}"
        words = [tag, node, str(int(capable)), *argv]
        container = self._fleet.id_of(node)
        self._sessions.append(Session(self._fleet.client, container, words, fds, size))
        self._tags.append((node, tag))
        return number, self._sessions[number].master

    def wait(self, child: int, seconds: float) -> int | None:
        """Wait for a command started by `interactive`; returns its exit status, None while it still runs."""
        return self._sessions[child].wait(seconds)

    def send_signal(self, child: int, number: int) -> None:
        """Send a signal to a command's whole session."""
        node, tag = self._tags[child]
        self._fleet.link(node).call("signal_tagged", tag=tag, number=number)

    def probe(self, probes: Sequence[Probe], in_flight: int = 64) -> Sequence[Outcome]:
        """Send flows from inside nodes; over connections of their own, so that a thread may do so amid other calls."""
        groups: dict[str, list[int]] = {}
        for number, probe in enumerate(probes):
            groups.setdefault(self._fleet.container_of(probe.node), []).append(number)
        links = {name: self._fleet.link_to(name) for name in groups}
        try:
            for name, numbers in groups.items():
                sent = [written_probe(probes[one]) for one in numbers]
                links[name].ask("probe", probes=sent, in_flight=in_flight)
            found: dict[int, Outcome] = {}
            for name, numbers in groups.items():
                found |= zip(numbers, links[name].answer(), strict=True)
        finally:
            for link in links.values():
                link.close()
        return [found[number] for number in range(len(probes))]

    def mark(self) -> Mark:
        """Return the present end of all recordings."""
        ends: dict[str, dict[str, int]] = {}
        began = time.time_ns()
        for told in self._fleet.all("mark"):
            for kind, named in told["ends"].items():
                ends.setdefault(kind, {}).update(named)
        return Mark(began, ends)

    def collect(self, mark: Mark, kinds: Sequence[str] = _EVERYTHING) -> Raw:
        """Return what was recorded since a mark."""
        recorded: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
        rest: dict[str, dict[str, Any]] = {"lost": {}, "ended": {}, "interfaces": {}}
        for found in self._fleet.all("collect", mark=mark.ends, kinds=list(kinds)):
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
            if any(self._fleet.all("wait_for", kind=kind, mark=ends, seconds=min(left, _SLICE_SECONDS))):
                return

    def barrier(self, seconds: float) -> Sequence[str]:
        """Return the taps through which a nonce did not come back in time."""
        return sorted(tap for told in self._fleet.all("barrier", seconds=seconds) for tap in told["blind"])

    def blind(self, node: str) -> None:
        """Let a node's tap see nothing more, for good: the harness must then say `unknown`."""
        self._fleet.link(node).call("blind", node=node)

    def counters(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Return each node's named nftables counters."""
        return {node: values for told in self._fleet.all("counters") for node, values in told.items()}

    def secrets(self) -> bytes:
        """Return what programs logged of their TLS connections' secrets, in NSS's key log format."""
        return self._fleet.files("secrets")

    def routing(self, node: str, control: str = "") -> Routing:
        """Return a node's routes as its kernel has them, and as the BIRD has them whose control socket is named."""
        found = self._fleet.link(node).call("routing", node=node, control=control)
        kernel, answer, protocols, silence = found
        told = bird_routes(answer) if control and not silence else None
        return Routing(read_kernel(kernel), told, silence, down=sessions_down(protocols))

    def network(self, node: str) -> Mapping[str, Any]:
        """Return a node's routes and interfaces as the kernel has them."""
        network: Mapping[str, Any] = self._fleet.link(node).call("network", node=node)
        return network

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Return the lab's programs; their process ids are those of their containers."""
        return [program for told in self._fleet.all("programs") for program in told]

    def kill(self, node: str, program: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of the lab's programs."""
        self._fleet.link(node).call("kill_program", node=node, name=program, number=int(number))

    def end_program(self, node: str, program: str) -> None:
        """End one of the lab's programs on purpose, so that nobody misses it."""
        self._fleet.link(node).call("end_program", node=node, name=program)

    def start_program(self, node: str, program: str) -> None:
        """Start a program of the lab again and wait until it is ready."""
        self._fleet.link(node).call("start_program", node=node, name=program)

    def set_link(self, tap: str, *, up: bool) -> None:
        """Take the interface of a tap down, or up again."""
        taps = self._payload(self._state, self.source, None).layout.taps
        node = next(node for (node, _), name in taps.items() if name == tap)
        self._fleet.link(node).call("set_link", tap=tap, up=up)

    def _payload(self, state: State, source: tuple[str, str], mutation: Mutation | None) -> Payload:
        return payload_of(state, self.name, source, in_image=True, mutation=mutation)

    def _become(
        self, state: State, source: tuple[str, str], *, let_pass: bool = False, anew: Collection[str] = ()
    ) -> tuple[str, ...]:
        words = super()._become(state, source, let_pass=let_pass, anew=anew)
        if self._kept is not None:
            self._kept(state, source)
        return words

    def _alter(self, before: Payload, after: Payload, *, let_pass: bool, anew: Collection[str]) -> None:
        found = compare(parts.containers(before), parts.containers(after), anew)
        fleet = self._fleet
        self._change_networks(before, after)
        fleet.drop(found.gone)
        fleet.make(found.made)
        for container, _ in found.changed:
            fleet.holding(container)
        fleet.each({one.name: ("change", _as_data(change, let_pass)) for one, change in found.changed})
        fleet.connect([container.name for container in found.made])

    def _change_networks(self, before: Payload, after: Payload) -> None:
        """Make the networks that are new, and refuse to change those that nodes are on."""
        old = {one.name: one for one in parts.networks(before)}
        new = {one.name: one for one in parts.networks(after)}
        for name in old.keys() & new.keys():
            if (old[name].cidr, old[name].mtu) != (new[name].cidr, new[name].mtu):
                raise LabError(f"network {name!r} is another now; take the lab down and up again")
        added = [network for name, network in new.items() if name not in old]
        if added:
            outside.make_networks(self._fleet.client, self.name, added)

    def close(self) -> None:
        """End the connections, and the lab with them when this process owns it."""
        self._fleet.close()
        if self._ended is not None:
            self._ended()
        self._fleet.client.close()


def _as_data(change: Change, let_pass: bool) -> dict[str, str]:  # noqa: FBT001 - one field of the change
    return {"data": base64.b64encode(pickle.dumps(replace(change, lets_pass=let_pass))).decode()}
