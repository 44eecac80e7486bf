"""A running lab of this driver, as running.RunningLab says: the control protocol behind methods."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.agent.change import difference
from harness.agent.changeable import Asked, Changeable
from harness.agent.commands import read_both
from harness.agent.layout import Payload
from harness.agent.state import State, binding, first_state, payload_of
from harness.agent.trial import able
from harness.drivers.netns.client import Client
from harness.drivers.netns.launch import Lease, launch, owner_id
from harness.evidence import CommandResult
from harness.mutation import Mutation
from harness.plan import Plan
from harness.programs.bird_control import routes as bird_routes
from harness.programs.bird_control import sessions_down
from harness.programs.probe import Outcome, Probe, written_probe
from harness.routing import Routing
from harness.routing import read as read_kernel
from harness.running import Mark, Raw

_EVERYTHING = ("lines", "conntrack", "nflog", "frames")
_KINDS = (*_EVERYTHING, "routes")


def stand_up(
    plan: Plan, name: str, source: tuple[str, str], *, owned: bool, secrets: bool = False
) -> NamespaceLab:
    """Stand a lab up and connect to it; with `secrets`, its programs log those of their TLS connections."""
    plan = able(plan)
    state = first_state(plan, replace(binding(plan), logs_secrets=secrets))
    lease = launch(state, name, source)
    try:
        lab = NamespaceLab(state, Client(name, owner_id()), lease if owned else None, source, lease.phases)
    except BaseException:
        lease.end()
        raise
    if not owned:
        lease.release()
    return lab


def attach_to(name: str) -> NamespaceLab:
    """Connect to a lab that is up."""
    client = Client(name, owner_id())
    told = client.call("hello")
    path, text = told["source"]
    phases = tuple((phase, seconds) for phase, seconds in told["phases"])
    return NamespaceLab(State.unpacked(client.fetch_bytes("state")), client, None, (path, text), phases)


class NamespaceLab(Changeable):
    """A lab in a sandbox of this machine."""

    def __init__(
        self,
        state: State,
        client: Client,
        lease: Lease | None,
        source: tuple[str, str],
        phases: tuple[tuple[str, float], ...],
    ) -> None:
        super().__init__(state, client.lab, source, phases)
        self._client = client
        self._lease = lease

    def _payload(self, state: State, source: tuple[str, str], mutation: Mutation | None) -> Payload:
        return payload_of(state, self.name, source, mutation=mutation)

    def _alter(self, before: Payload, after: Payload, *, let_pass: bool, anew: Collection[str]) -> None:
        memory = os.memfd_create("change")
        try:
            os.write(memory, pickle.dumps(replace(difference(before, after, anew), lets_pass=let_pass)))
            self._client.call("change", fds=(memory,))
        finally:
            os.close(memory)

    @property
    def _first(self) -> Asked:
        return self._client

    def run(self, node: str, argv: Sequence[str], *, seconds: float, capable: bool = False) -> CommandResult:
        """Run a command to its end and return what it printed; after `seconds` it is ended, code None."""
        nothing = os.open("/dev/null", os.O_RDONLY)
        pipes = [os.pipe() for _ in range(2)]
        fds = (nothing, pipes[0][1], pipes[1][1])
        try:
            told = self._client.call("exec", node=node, argv=list(argv), capable=capable, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)
        readers = (pipes[0][0], pipes[1][0])
        if told["child"] is None:
            for fd in readers:
                os.close(fd)
            return CommandResult(tuple(argv), told["code"], "", told["reason"] + "\n")
        streams, in_time = read_both(readers, seconds)
        if not in_time:
            self._client.call("signal", child=told["child"], number=int(signal.SIGKILL))
        ended = self._client.call("wait", child=told["child"], seconds=seconds)
        code = ended["code"] if in_time else None
        return CommandResult(tuple(argv), code, *streams)

    def interactive(
        self,
        node: str,
        argv: Sequence[str],
        fds: tuple[int, int, int] | None,
        size: tuple[int, int] = (24, 80),
    ) -> tuple[int | None, int | None]:
        """Start a command on our own streams, or on a new terminal of `size` (rows, columns) when `fds` is None.

        Nodes give it the capabilities that an administrator has there; pods, as in Kubernetes, do not. Returns
        (child number, the terminal's master); the child is None when the program is not there.
        """
        capable = self.plan.node(node).placement != "pod"
        told, master = self._client.call_for_fd(
            "exec",
            node=node,
            argv=list(argv),
            terminal=size if fds is None else None,
            capable=capable,
            fds=fds or (),
        )
        return told["child"], master

    def wait(self, child: int, seconds: float) -> int | None:
        """Wait for a command started by `interactive`; returns its exit status, None while it still runs.

        The lab notices only between two requests that its client has gone, so `seconds` should be short.
        """
        code: int | None = self._client.call("wait", child=child, seconds=seconds)["code"]
        return code

    def send_signal(self, child: int, number: int) -> None:
        """Send a signal to a command's whole session."""
        self._client.call("signal", child=child, number=number)

    def probe(self, probes: Sequence[Probe], in_flight: int = 64) -> Sequence[Outcome]:
        """Send flows from inside nodes; over a connection of its own, so that a thread may do so amid other calls."""
        sent = [written_probe(probe) for probe in probes]
        client = Client(self.name, owner_id())
        try:
            outcomes: Sequence[Outcome] = client.fetch("probe", probes=sent, in_flight=in_flight)
        finally:
            client.close()
        return outcomes

    def end_program(self, node: str, program: str) -> None:
        """End one of the lab's programs on purpose, so that nobody misses it."""
        self._client.call("end_program", node=node, name=program)

    def start_program(self, node: str, program: str) -> None:
        """Start a program of the lab again and wait until it is ready."""
        self._client.call("start_program", node=node, name=program)

    def set_link(self, tap: str, *, up: bool) -> None:
        """Take the interface of a tap down, or up again."""
        self._client.call("set_link", tap=tap, up=up)

    def mark(self) -> Mark:
        """Return the present end of all recordings."""
        told = self._client.call("mark")
        return Mark(told["time"], told["ends"])

    def collect(self, mark: Mark, kinds: Sequence[str] = _EVERYTHING) -> Raw:
        """Return what was recorded since a mark."""
        found = self._client.fetch("collect", mark=mark.ends, kinds=list(kinds))
        recorded = {kind: found["recorded"].get(kind, {}) for kind in _KINDS}
        return Raw(**recorded, lost=found["lost"], ended=found["ended"], interfaces=found["interfaces"])

    def secrets(self) -> bytes:
        """Return what programs logged of their TLS connections' secrets, in NSS's key log format."""
        return self._client.fetch_bytes("secrets")

    def wait_for(self, kind: str, mark: Mark, seconds: float) -> None:
        """Return when something of a kind was recorded since the mark, or after `seconds`."""
        self._client.call("wait_for", kind=kind, mark={kind: mark.ends.get(kind, {})}, seconds=seconds)

    def barrier(self, seconds: float) -> Sequence[str]:
        """Return the taps through which a nonce did not come back in time."""
        blind: Sequence[str] = self._client.call("barrier", seconds=seconds)["blind"]
        return blind

    def blind(self, node: str) -> None:
        """Let a node's tap see nothing more, for good: the harness must then say `unknown`."""
        self._client.call("blind", node=node)

    def counters(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Return each node's named nftables counters."""
        counters: Mapping[str, Mapping[str, Sequence[int]]] = self._client.call("counters")
        return counters

    def routing(self, node: str, control: str = "") -> Routing:
        """Return a node's routes as its kernel has them, and as the BIRD has them whose control socket is named."""
        kernel, answer, protocols, silence = self._client.fetch("routing", node=node, control=control)
        told = bird_routes(answer) if control and not silence else None
        return Routing(read_kernel(kernel), told, silence, down=sessions_down(protocols))

    def network(self, node: str) -> Mapping[str, Any]:
        """Return a node's routes and interfaces as the kernel has them."""
        network: Mapping[str, Any] = self._client.call("network", node=node)
        return network

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Return the lab's programs."""
        programs: Sequence[Mapping[str, Any]] = self._client.call("programs")
        return programs

    def kill(self, node: str, program: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of the lab's programs."""
        self._client.call("kill_program", node=node, name=program, number=int(number))

    def close(self) -> None:
        """End the connection, and the lab with it when this process owns it."""
        self._client.close()
        if self._lease is not None:
            self._lease.end()
