"""The protocols of a driver and of a lab that runs: what the rest of the project may ask of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Literal, Protocol, runtime_checkable

from harness.evidence import CommandResult
from harness.identity import Certificates
from harness.mutation import Mutation
from harness.plan import Bindings, Plan
from harness.programs.probe import Outcome, Probe
from harness.routing import Routing

Readdressing = Literal["reboot", "add_block", "release_block"]
"""How a cluster node comes to other blocks."""


@dataclass(frozen=True)
class Mark:
    """A point in everything that is recorded; `time` in ns since the epoch."""

    time: int
    ends: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Raw:
    """What a lab recorded since a mark, undigested: by kind and by node (or `node program` for lines)."""

    lines: Mapping[str, Sequence[tuple[int, str]]]
    conntrack: Mapping[str, Sequence[Any]]
    nflog: Mapping[str, Sequence[Any]]
    frames: Mapping[str, Sequence[bytes]]
    lost: Mapping[str, str]
    ended: Mapping[str, int]
    interfaces: Mapping[str, Mapping[int, str]]
    routes: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class RunningLab(Protocol):
    """A lab that stands. Raises GoneError from any call when it no longer does."""

    name: str
    source: tuple[str, str]
    phases: tuple[tuple[str, float], ...]

    @property
    def plan(self) -> Plan:
        """The plan as it stands now."""

    @property
    def bindings(self) -> Bindings:
        """The addresses as they are now."""

    def run(self, node: str, argv: Sequence[str], *, seconds: float, capable: bool = False) -> CommandResult:
        """Run a command in a node to its end, or end it after `seconds`."""

    def probe(self, probes: Sequence[Probe], in_flight: int = 64) -> Sequence[Outcome]:
        """Send flows from inside nodes."""

    def window(self, seconds: float) -> AbstractContextManager[None]:
        """Have the lab to oneself; waits up to `seconds`, then raises LabError."""

    def mark(self) -> Mark:
        """Return the present end of all recordings."""

    def collect(self, mark: Mark, kinds: Sequence[str] = ("lines", "conntrack", "nflog", "frames")) -> Raw:
        """Return what was recorded since a mark."""

    def secrets(self) -> bytes:
        """Return the secrets of the lab's TLS connections, in NSS's key log format; empty where none are logged."""

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """Return each node's files by path within its private folder, as it was given them: keys among them."""

    def wait_for(self, kind: str, mark: Mark, seconds: float) -> None:
        """Return when something of a kind (`lines`, `frames`, ...) was recorded since the mark, or after `seconds`."""

    def barrier(self, seconds: float) -> Sequence[str]:
        """Prove that every tap sees: send a nonce through each; return the taps where it did not come back."""

    def counters(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Return each node's named nftables counters as (packets, bytes)."""

    def issued(self) -> Mapping[str, tuple[str, ...]]:
        """Return the fingerprints (SHA-256) of each certificate's holder in order of issue; the last is in use."""

    def routing(self, node: str, control: str = "") -> Routing:
        """Return a node's routes as its kernel has them, and as the BIRD has them whose control socket is named."""

    @property
    def certificates(self) -> Certificates:
        """The lab's certificates, and its authorities with their keys: a client that is to show one is issued it."""

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Return the lab's programs with their process ids and, when they ended, exit statuses."""

    def close(self) -> None:
        """End the connection, and the lab with it when this process owns it."""


@runtime_checkable
class ChangeableLab(RunningLab, Protocol):
    """A lab that can be changed while it runs; scenarios with steps (`given`) and `apply` need one."""

    def state(self) -> object:
        """Return a token for `restore`: all that the lab is now."""

    def change(
        self, plan: Plan, pinned: Mapping[str, IPv4Address] = ..., source: tuple[str, str] | None = None
    ) -> Sequence[str]:
        """Turn the lab into another plan, leaving alone what both have; returns what changed, in words.

        `source` is the file it comes from, path and text, when that is another.
        """

    def rotate(self, name: str, keep: Collection[str] = ()) -> None:
        """Replace a node's certificates, or with `ca` the authority and all that it issued, but for pods in `keep`.

        Returns when every program of the lab uses what is new.
        """

    def restore(self, state: object) -> None:
        """Turn the lab back into what it was."""

    def readdress(self, node: str, how: Readdressing) -> None:
        """Boot a cluster node anew, with another block for its pods; or give it a block more, or one less."""

    def kill(self, node: str, program: str, number: int) -> None:
        """Send a signal to one of the lab's programs."""

    def end_program(self, node: str, program: str) -> None:
        """End a program on purpose, so that nobody misses it."""

    def start_program(self, node: str, program: str) -> None:
        """Start a program of the lab again and wait until it is ready."""

    def set_link(self, tap: str, *, up: bool) -> None:
        """Take the interface of a tap down, or up again."""


@runtime_checkable
class MutableLab(ChangeableLab, Protocol):
    """A lab in which something else can run than its plan says."""

    def mutate(self, mutation: Mutation | None) -> Sequence[str]:
        """Run something else than the plan says, through all changes, until told None; the plan stays what it is.

        Returns what changed, in words. Raises LabError when the lab does not get there.
        """


class Driver(Protocol):
    """A way to stand plans up; one module or package of harness/drivers each."""

    __name__: str
    STANDS_IN: tuple[str, ...]
    """What in its labs stands in for something else, told whenever one stands up."""

    def up(
        self, plan: Plan, name: str, source: tuple[str, str], *, owned: bool, secrets: bool = False
    ) -> RunningLab:
        """Stand a lab up; an owned one ends with this process. Raises StartError or MissingCapability.

        With `secrets`, its programs log the secrets of their TLS connections.
        """

    def attach(self, name: str) -> RunningLab:
        """Return a lab that is up; raises GoneError."""

    def running(self) -> Sequence[str]:
        """Return the names of the labs that are up."""

    def down(self, name: str) -> None:
        """Take a lab down; raises GoneError when there is none."""

    def missing(self, capabilities: Collection[str]) -> Mapping[str, str]:
        """Return which of these capabilities are missing here, each with the reason."""

    def binding(self, plan: Plan) -> Bindings:
        """Return the addresses of a plan."""
