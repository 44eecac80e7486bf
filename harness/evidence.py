"""What was seen of a flow, by whom: attempts, sightings, and all of one attempt's evidence together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from harness.capture import Packet
from harness.plan import Bindings, Plan
from harness.programs.fivetuple import TCP, FiveTuple
from harness.programs.probe import Outcome
from harness.routing import Routing, Steps
from harness.scenario import Item

Witness = Literal["log", "conntrack", "nflog", "tap"]
State = Literal["held", "broken", "unknown"]
OPENINGS = ("opening", "new", "allow", "drop", "accept")
"""What witnesses say of a connection that begins: taps, conntrack, a firewall's log, a server's log."""

_BEGINNINGS = ("opening", "new")
_ONE_CONNECTION_NS = 20_000_000
"""Within so long witnesses agree on when a connection began; no port is used again as soon."""
_SAME_MOMENT_NS = 1_000_000
"""By so much connection tracking may be ahead of the packet at a tap."""

UNREACHABLE = {"3/0": "no-route", "3/1": "no-neighbour", "1/0": "no-route", "1/3": "no-neighbour"}
"""Why a router could not forward, by type and code of the ICMP error that it sends.

RFC 1812, section 5.2.7; the last two of ICMPv6 (RFC 4443, section 3.1), whose types ICMP has no others of.
"""

RP_FILTER = "rp_filter"
"""Why a kernel dropped what came in by another interface than its route back (RFC 3704); as a rule's name."""
REVERSE_PATH_DROPS = "IPReversePathFilter"
"""The kernel's own counter of these (proc(5), net/netstat)."""

SIDECAR = "sidecar"
"""As a hop: the Envoy beside the pod that the flow leaves from; `NAMESPACE/POD sidecar` is another pod's."""
APP = "app"
"""In `NAMESPACE/POD app`: what runs behind that pod's sidecar, as a hop of its own."""


@dataclass(frozen=True)
class Sighting:
    """One thing that one witness saw at one node, at `time` (ns since the epoch).

    `flow` is the 5-tuple as it arrived there; `onward` as it left, when the witness knows both (a proxy's log, NAT).
    `sport` 0 in a flow means that the witness does not record ports (tinyproxy).
    """

    at: str
    witness: Witness
    event: str
    time: int
    flow: FiveTuple | None = None
    onward: FiveTuple | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CommandResult:
    """How a command in a pod ended: exit status (None when it was ended by the limit), and both streams."""

    argv: tuple[str, ...]
    code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Attempt:
    """One flow tried once: by a command or by a probe, between two instants (ns)."""

    item: Item
    pod: str
    started: int
    ended: int
    command: CommandResult | None = None
    outcome: Outcome | None = None

    @property
    def text(self) -> str:
        """All that the client printed, or what the probe saw, as lines."""
        if self.command is not None:
            return self.command.stdout + self.command.stderr
        if self.outcome is not None:
            return "\n".join(
                [*self.outcome.lines, f"{self.outcome.stage}: {self.outcome.status} {self.outcome.detail}"]
            )
        return ""

    @property
    def succeeded(self) -> bool:
        """Whether the client got what it asked for."""
        if self.command is not None:
            return self.command.code == 0
        return self.outcome is not None and self.outcome.status in ("answered", "connected")


@dataclass(frozen=True)
class Recorded:
    """Everything that the lab recorded in a span of time.

    `lines` by (node, program); `counters` by node: name -> (packets before, packets after); `lost` says what is
    missing; `blind` names taps through which the nonce did not come back; `ended` programs that are not running.
    """

    lines: Mapping[tuple[str, str], tuple[tuple[int, str], ...]]
    sightings: tuple[Sighting, ...]
    packets: tuple[Packet, ...]
    counters: Mapping[str, Mapping[str, tuple[int, int]]]
    lost: Mapping[str, str]
    blind: tuple[str, ...]
    ended: Mapping[str, int]

    @cached_property
    def by_flow(self) -> Mapping[FiveTuple, Sequence[Sighting]]:
        """The sightings of each 5-tuple, as it arrived there."""
        found: dict[FiveTuple, list[Sighting]] = {}
        for sighting in self.sightings:
            if sighting.flow is not None:
                found.setdefault(sighting.flow, []).append(sighting)
        return found

    @cached_property
    def by_place(self) -> Mapping[str, Sequence[Sighting]]:
        """The sightings at each place."""
        found: dict[str, list[Sighting]] = {}
        for sighting in self.sightings:
            found.setdefault(sighting.at, []).append(sighting)
        return found

    def follow(
        self, roots: Iterable[FiveTuple], since: int = 0
    ) -> tuple[set[FiveTuple], dict[int, Sighting]]:
        """Return all 5-tuples that the chain leads to from the roots, and the sightings on the way, by identity.

        Of what was seen before `since` (ns since the epoch) nothing counts, nor of what was seen when the ports had
        another connection: under load, they are used again. What a proxy's log says that it went on by may be older
        than the flow itself (see `_begun`).
        """
        since_of, frontier = dict.fromkeys(roots, since), list(roots)
        used: dict[int, Sighting] = {}
        while frontier:
            flow = frontier.pop()
            until = self._used_again(flow, since_of[flow]) if since else None
            for sighting in self.by_flow.get(flow, ()):
                if sighting.time < since_of[flow] or (until is not None and sighting.time >= until):
                    continue
                used[id(sighting)] = sighting
                if sighting.onward is not None and sighting.onward not in since_of:
                    since_of[sighting.onward] = self._begun(sighting, sighting.onward, since_of[flow])
                    frontier.append(sighting.onward)
        return set(since_of), used

    def _begun(self, sighting: Sighting, onward: FiveTuple, since: int) -> int:
        """Return since when what a flow went on by counts, which is `since` unless it is a connection of a pool.

        Envoy opens a connection for each flow that comes, and gives each that is up to the flow that has waited the
        longest: of two at once, one may go on by what was opened for the other, before it began itself (Envoy,
        conn_pool_base.cc, onUpstreamReady). It did where no other flow went on by these ports.
        """
        if sighting.witness != "log" or len(self._claims.get(onward, ())) != 1:
            return since
        begun = max(
            (one.time for one in self.by_flow.get(onward, ()) if one.event in _BEGINNINGS), default=since
        )
        return min(since, begun - _ONE_CONNECTION_NS)

    def _used_again(self, flow: FiveTuple, since: int) -> int | None:
        """Return from when on a 5-tuple was another connection's than the first that began with it, None if never.

        Only another sequence number of a SYN says so: one may be sent again, or wait on its way for an answer to ARP.
        """
        syns = sorted(
            (one.time, one.facts["seq"])
            for one in self.by_flow.get(flow, ())
            if one.event == "opening" and flow.protocol == TCP and one.time >= since and "seq" in one.facts
        )
        later = next((time for time, number in syns if number != syns[0][1]), None)
        return later - _SAME_MOMENT_NS if later is not None else None

    @cached_property
    def _claims(self) -> Mapping[FiveTuple, Collection[tuple[str, FiveTuple | None]]]:
        """The flows that went on by each 5-tuple, with the place, as programs' logs say."""
        found: dict[FiveTuple, set[tuple[str, FiveTuple | None]]] = {}
        for sighting in self.sightings:
            if sighting.witness == "log" and sighting.onward is not None:
                found.setdefault(sighting.onward, set()).add((sighting.at, sighting.flow))
        return found

    @cached_property
    def accounted(self) -> frozenset[FiveTuple]:
        """The 5-tuples of which some program's log says for whom it opened them."""
        logged = {
            sighting.onward for sighting in self.sightings if sighting.witness == "log" and sighting.onward
        }
        return frozenset(self.follow(logged)[0])

    @cached_property
    def unaccounted(self) -> Sequence[Sighting]:
        """The openings of TCP connections that nobody's log accounts for."""
        return [
            sighting
            for sighting in self.sightings
            if sighting.event in OPENINGS
            and sighting.flow is not None
            and sighting.flow.protocol == TCP
            and sighting.flow not in self.accounted
        ]

    @cached_property
    def packets_of(self) -> Mapping[FiveTuple, Sequence[Packet]]:
        """The packets of each 5-tuple (of what is innermost in tunnels), and the ICMP errors that quote it."""
        found: dict[FiveTuple, list[Packet]] = {}
        for packet in self.packets:
            innermost = packet.innermost
            found.setdefault(innermost.flow, []).append(packet)
            for one in {packet, innermost} if packet.inner else (packet,):
                if one.icmp is not None and one.icmp[2] is not None:
                    found.setdefault(one.icmp[2], []).append(packet)
        return found

    @cached_property
    def first_packets(self) -> Mapping[FiveTuple, Sequence[Packet]]:
        """The packets that open a TCP connection (SYN), by their 5-tuple."""
        found: dict[FiveTuple, list[Packet]] = {}
        for packet in self.packets:
            if packet.flags == "S" and packet.flow is not None:
                found.setdefault(packet.flow, []).append(packet)
        return found


@dataclass(frozen=True)
class Finding:
    """One assertion's result: which, at what hop, expected and seen, and whether that holds."""

    check: str
    state: State
    at: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"at {self.at}: expected {self.expected}; seen: {self.seen}"


@dataclass(frozen=True)
class Evidence:
    """An attempt with all that was recorded of it; what checks judge."""

    plan: Plan
    bindings: Bindings
    attempt: Attempt
    recorded: Recorded
    unfinished: tuple[tuple[str, str], ...] = ()
    """(hop, what it did not say in time), as `log of the end of connection 3`."""
    issued: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Who holds certificates: their fingerprints (SHA-256) in order of issue, the last of which is in use."""
    routing: Mapping[str, Routing] = field(default_factory=dict)
    """The tables of the nodes whose routes the scenario speaks of, just after the flow."""
    steps: Steps = field(default_factory=Steps)

    def gap(self, hop: str, before: Iterable[str] = ()) -> str | None:
        """Say why what is not recorded at a hop may have been there all the same; None if nothing is missing.

        What was lost at the places where the flow was seen `before` counts too: the chain of 5-tuples may break there.
        """
        for place, what in self.unfinished:
            return f"{place} lacks {what}"
        if (lost := self.lost_at(hop)) is not None:
            return lost
        lost_before = ((place, self.lost_at(place)) for place in before)
        return next((f"{place} lost some: {lost}" for place, lost in lost_before if lost), None)

    def place_of(self, hop: str) -> str:
        """Return the node of a hop: itself, or of a hop within a node what it is in.

        `sidecar` is in the pod that sends, `shop/web app` in that pod, `mesh-host/server` in that host.
        """
        if hop == SIDECAR:
            return self.attempt.pod
        hop = hop.partition(" ")[0]
        outer = hop.rpartition("/")[0]
        names = self.plan.by_name
        return outer if hop not in names and outer in names else hop

    def lost_at(self, hop: str) -> str | None:
        """Say what a hop's records have lost: a tap that is blind, or losses; None if nothing."""
        node = self.place_of(hop)
        for tap in self.recorded.blind:
            if tap.rpartition(".")[0] == node:
                return f"the tap {tap} is blind"
        for source, reason in self.recorded.lost.items():
            if (source.rpartition(" ")[0] or source) in (node, "source"):
                return reason
        return None
