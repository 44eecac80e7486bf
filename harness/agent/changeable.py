"""A lab that can be changed while it runs (running.ChangeableLab), whatever carries changes to its agents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from harness.agent.change import difference
from harness.agent.layout import Payload
from harness.agent.state import State, placed
from harness.agent.trial import able
from harness.errors import GoneError, LabError
from harness.identity import Certificates
from harness.mutation import Mutation
from harness.plan import Bindings, Plan
from harness.running import Readdressing


class Asked(Protocol):
    """A connection to an agent."""

    def call(self, op: str, **fields: Any) -> Any:
        """Have the agent do something, and return what it answers."""


class Changeable(ABC):
    """What a lab is: the state that it was made from, and what runs where that is something else."""

    LACKS: ClassVar[tuple[str, ...]] = ()
    """Capabilities that the driver does not have, whatever the kernel has."""

    def __init__(
        self, state: State, name: str, source: tuple[str, str], phases: tuple[tuple[str, float], ...]
    ) -> None:
        self.name = name
        self.source = source
        self.phases = phases
        self._state = state
        self._mutation: Mutation | None = None
        self._runs: Payload | None = None  # what does, where that is not what the state says
        self._in_window = False

    @property
    @abstractmethod
    def _first(self) -> Asked:
        """The agent that is asked for what there is once in a lab."""

    @contextmanager
    def window(self, seconds: float) -> Iterator[None]:
        """Have the lab to oneself; whoever has it already keeps it."""
        if self._in_window:
            yield
            return
        first = self._first
        if not first.call("open_window", seconds=seconds):
            raise LabError(f"lab {self.name!r} is in use by another test run, for more than {seconds:g} s")
        self._in_window = True
        try:
            yield
        finally:
            self._in_window = False
            with suppress(GoneError):  # whoever noticed first has already said so
                first.call("close_window")

    @property
    def plan(self) -> Plan:
        """The plan as it stands now."""
        return self._state.plan

    @property
    def bindings(self) -> Bindings:
        """The addresses as they are now."""
        return self._state.bindings

    def change(
        self,
        plan: Plan,
        pinned: Mapping[str, IPv4Address] = MappingProxyType({}),
        source: tuple[str, str] | None = None,
    ) -> tuple[str, ...]:
        """Turn the running lab into another plan, leaving alone what both have; returns what changed, in words.

        `pinned` gives pods an address; `source` is the file it comes from, when that is another. Raises LabError.
        """
        return self._become(self._state.changed(able(plan, self.LACKS), pinned), source or self.source)

    def rotate(self, name: str, keep: Collection[str] = ()) -> None:
        """Replace a node's certificates, or with `ca` the authority and all that it issued, but for pods in `keep`.

        Returns when every program uses what is new. Raises LabError.
        """
        for state in self._state.rotations(name, keep):
            self._become(state, self.source, let_pass=True)

    def readdress(self, node: str, how: Readdressing) -> None:
        """Boot a cluster node anew, with another block for its pods; or give it a block more, or one less."""
        state = self._state.readdressed(node, how)
        self._become(state, self.source, anew=(node,) if how == "reboot" else ())

    def issued(self) -> Mapping[str, tuple[str, ...]]:
        """Return the fingerprints (SHA-256) of each certificate's holder in order of issue; the last is in use."""
        return self._state.certificates.issued()

    @property
    def certificates(self) -> Certificates:
        """The lab's certificates, and its authorities with their keys."""
        return self._state.certificates

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """Return each node's files by path within its private folder, as it was given them: keys among them."""
        return placed(self._state)

    def state(self) -> object:
        """Return a token for `restore`: all that the lab is now."""
        return self._state

    def restore(self, state: object) -> None:
        """Turn the lab back into what it was, addresses and certificates included."""
        if not isinstance(state, State):
            raise TypeError("this is no state of a lab")
        self._become(state, self.source)

    def mutate(self, mutation: Mutation | None) -> tuple[str, ...]:
        """Run something else than the plan says, through all changes; None: what it says. Raises LabError."""
        self._mutation = mutation
        return self._become(self._state, self.source)

    def _become(
        self, state: State, source: tuple[str, str], *, let_pass: bool = False, anew: Collection[str] = ()
    ) -> tuple[str, ...]:
        before = self._runs or self._payload(self._state, self.source, None)
        after = self._payload(state, source, self._mutation)
        self._alter(before, after, let_pass=let_pass, anew=anew)
        self._state, self.source = state, source
        self._runs = after if self._mutation else None
        return tuple(difference(before, after, anew).words())

    @abstractmethod
    def _payload(self, state: State, source: tuple[str, str], mutation: Mutation | None) -> Payload:
        """Return what is to run in a state, with a mutation something else."""

    @abstractmethod
    def _alter(self, before: Payload, after: Payload, *, let_pass: bool, anew: Collection[str]) -> None:
        """Have what runs become another; raises LabError."""
