"""A lab that runs nothing: it answers each flow with what was recorded of one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.drivers.fake.bind import bind
from harness.errors import GoneError
from harness.identity import Certificates
from harness.routing import Routing
from harness.running import Mark, Raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.evidence import CommandResult
    from harness.plan import Plan
    from harness.programs.probe import Outcome, Probe

    Counters = Mapping[str, Mapping[str, Sequence[int]]]

_EVERYTHING = ("lines", "conntrack", "nflog", "frames")


@dataclass(frozen=True)
class Recording:
    """What came of one flow that a pod sent: what its client saw, and what was recorded between two instants (ns).

    `counted` is by how much it moved the counters; `blind` the taps through which the nonce did not come back.
    """

    pod: str
    raw: Raw
    started: int
    ended: int
    command: CommandResult | None = None
    outcome: Outcome | None = None
    counted: Counters = field(default_factory=dict)
    blind: tuple[str, ...] = ()


class FakeLab:
    """A lab that answers each command or probe with the pod's next recording of one; the last one for ever.

    Recordings of one lab follow each other in time, in the order in which they are played.

    Raises GoneError where there is no such recording, as a lab that died would.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        source: tuple[str, str],
        recordings: Iterable[Recording] = (),
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.plan = plan
        self.bindings = bind(plan)
        self.name = name
        self.source = source
        self.phases: tuple[tuple[str, float], ...] = (("pretending", 0.0),)
        self.played: list[Recording] = []
        self._ended = ended
        self._recordings = tuple(recordings)
        self._waiting = list(self._recordings)
        self._begun = min((recording.started for recording in self._recordings), default=0)

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        seconds: float,  # noqa: ARG002 - the protocol's signature
        capable: bool = False,  # noqa: ARG002 - as above
    ) -> CommandResult:
        """Play a recording of a command back."""
        command = self._play(node, "command").command
        if command is None:
            raise GoneError(f"no command was recorded for {node!r}")
        return replace(command, argv=tuple(argv))

    def probe(self, probes: Sequence[Probe], in_flight: int = 64) -> Sequence[Outcome]:  # noqa: ARG002 - as above
        """Play recordings of probes back."""
        outcomes = []
        for probe in probes:
            outcome = self._play(probe.node, "outcome").outcome
            if outcome is None:
                raise GoneError(f"no probe was recorded for {probe.node!r}")
            outcomes.append(replace(outcome, id=probe.id))
        return outcomes

    @contextmanager
    def window(self, seconds: float) -> Iterator[None]:  # noqa: ARG002 - as above
        """Have the lab to oneself, which one always has."""
        yield

    def mark(self) -> Mark:
        """Return how much was played."""
        time = self.played[-1].ended if self.played else self._begun
        return Mark(time, {"played": {"": len(self.played)}})

    def collect(self, mark: Mark, kinds: Sequence[str] = _EVERYTHING) -> Raw:
        """Return what was recorded of the flows since a mark."""
        since = self.played[mark.ends.get("played", {}).get("", 0) :]
        found: dict[str, dict[str, list[Any]]] = {kind: {} for kind in _EVERYTHING}
        lost: dict[str, str] = {}
        ended: dict[str, int] = {}
        interfaces: dict[str, dict[int, str]] = {}
        for recording in since:
            for kind in kinds:
                for place, entries in getattr(recording.raw, kind).items():
                    found[kind].setdefault(place, []).extend(entries)
            lost |= recording.raw.lost
            ended |= recording.raw.ended
            interfaces |= {node: dict(names) for node, names in recording.raw.interfaces.items()}
        return Raw(**found, lost=lost, ended=ended, interfaces=interfaces)

    def secrets(self) -> bytes:
        """Return nothing: what was recorded of TLS is on paper."""
        return b""

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """Return nothing: nodes on paper were given no files."""
        return {}

    def wait_for(self, kind: str, mark: Mark, seconds: float) -> None:
        """Return at once: nothing more will come."""

    def barrier(self, seconds: float) -> Sequence[str]:  # noqa: ARG002 - as above
        """Return the taps that were blind when the last flow was recorded."""
        return self.played[-1].blind if self.played else ()

    def counters(self) -> Counters:
        """Return the sum of what the played flows counted; every counter that any of them will move is there."""
        totals: dict[str, dict[str, tuple[int, int]]] = {}
        for recording in self._recordings:
            times = sum(played is recording for played in self.played)
            for node, named in recording.counted.items():
                for name, (packets, octets) in named.items():
                    before = totals.setdefault(node, {}).get(name, (0, 0))
                    totals[node][name] = (before[0] + times * packets, before[1] + times * octets)
        return totals

    def routing(self, node: str, control: str = "") -> Routing:  # noqa: ARG002 - as above
        """Return empty tables: containers on paper route nothing."""
        return Routing()

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """Return the programs that the plan's nodes would run, as if all did."""
        return [
            {"node": node.name, "name": kind, "pid": 0, "code": None, "argv": (kind,)}
            for node in self.plan.nodes
            for kind in node.kinds
        ]

    def issued(self) -> Mapping[str, tuple[str, ...]]:
        """Return nothing: certificates here are on paper."""
        return {}

    @property
    def certificates(self) -> Certificates:
        """No certificates: what clients showed was recorded."""
        return Certificates({}, {})

    def close(self) -> None:
        """End the connection, and an owned lab with it; one that stays is ended by `down`."""
        self._ended()

    def _play(self, pod: str, kind: Literal["command", "outcome"]) -> Recording:
        """Return the pod's next recording that has one; an empty one, not played, where there is none."""
        fitting = [one for one in self._waiting if one.pod == pod and getattr(one, kind) is not None]
        if not fitting:
            return Recording(pod, self.collect(self.mark()), 0, 0)
        if len(fitting) > 1:
            self._waiting.remove(fitting[0])
        self.played.append(fitting[0])
        return fitting[0]
