"""One try of flows: send them, wait until all is said of them, prove that the taps saw, and join the sightings.

Evidence comes by several ways, each with its own delay: what is not there yet must not count as not there.
"""

from __future__ import annotations

import shlex
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, cycle
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from harness import lookup
from harness.attacks import Makings, offer_of
from harness.evidence import SIDECAR, Attempt, Evidence, Recorded
from harness.passport import Passport, join_all, unaccounted
from harness.programs.probe import Outcome, Probe
from harness.programs.tls_client import Offer
from harness.read_routing import Since, await_routes, read_routing
from harness.sightings import digest
from harness.verdict import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from harness.plan import Bindings, Node, Plan
    from harness.running import Mark, RunningLab
    from harness.scenario import Item

COMMAND_SECONDS = 20.0
QUIET_SECONDS = 3.0
SETTLED_A_SECOND = 200
"""Of many flows at once, for how many more a second is added to that: so many records take their time to be read."""
BARRIER_SECONDS = 1.0
ACCOUNT_SECONDS = 0.5
LOOK_AGAIN_SECONDS = 0.05
STEPS_SECONDS = 60.0
"""How long a load goes on at most behind its own flows, waiting for the steps that are done meanwhile."""
IN_FLIGHT = 256
"""How many probes are under way at once; a firewall that keeps silent holds each for the time of a probe."""

GREETING = b"HEAD / HTTP/1.0\r\n\r\n"
"""What a probe over TLS says: web servers and proxies answer it, and an echo does."""
_PROBE_SECONDS = {"allowed": 5.0, "rejected": 5.0, "dropped": 0.5}
_INTERCEPTED = (":15001", ":15006")
"""Where a pod's outgoing and incoming connections are redirected to: its sidecar logs each."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class _Span:
    """What was sent, since when it counts, and an earlier mark from which others' connections are accounted for."""

    lab: RunningLab
    attempts: tuple[Attempt, ...]
    mark: Mark
    earlier: Mark

    def joined(self, recorded: Recorded) -> list[Passport]:
        """Return each flow's passport, without such strays as records since `earlier` account for."""
        lab = self.lab
        passports = join_all(self.attempts, recorded, lab.plan, lab.bindings)
        if not any(passport.strays for passport in passports):
            return passports
        records = digest(lab.collect(self.earlier, ("lines", "conntrack")), lab.plan, {}, {}, ())
        return [replace(passport, strays=unaccounted(passport.strays, records)) for passport in passports]

    def unfinished(self, passport: Passport) -> Iterator[tuple[str, str]]:
        """Yield (hop, what is still missing) of a flow."""
        return _unfinished(passport, self.lab.plan, self.lab.bindings, self._listening)

    @cached_property
    def _listening(self) -> frozenset[tuple[str, str]]:
        return frozenset(_listening(self.lab.plan, self.lab.bindings))


def observe(  # noqa: PLR0913 - a flow, and what comes before, beside and in place of it
    lab: RunningLab,
    items: Sequence[Item],
    earlier: Mark | None,
    during: Callable[[], None] | None = None,
    since: Since | None = None,
    probes: Sequence[Probe] = (),
) -> tuple[list[tuple[Evidence, Passport]], Mark]:
    """Try one item, or several probes at once; the caller has the lab's window.

    An item with a load comes as often as it has flows; `during` is called when a third of the load's time is over, and
    where it takes long there are more flows than items.
    `since` says what steps did before, and the mark at which they began. `probes`, one for each item, are sent in
    place of those that the items describe.
    Returns evidence and passport of each, and the mark to give as `earlier` the next time.
    """
    earlier = earlier or lab.mark()
    since = since or Since(lab.mark())
    await_routes(lab, items, since)
    before = lab.counters()
    mark = lab.mark()
    span = _Span(lab, tuple(_send(lab, items, mark, during, probes)), mark, earlier)
    routing = read_routing(lab, items, since)
    deadline = time.monotonic() + QUIET_SECONDS + len(items) / SETTLED_A_SECOND
    while True:
        _settle(span, deadline)
        blind = lab.barrier(BARRIER_SECONDS)
        after = lab.counters()
        recorded = digest(lab.collect(mark), lab.plan, before, after, blind)
        passports = _with_accounts(span, recorded)
        unfinished = [tuple(span.unfinished(passport)) for passport in passports]
        # settling may have looked before anything of the flow was read; a machine that stalls loses no frame
        if not (any(unfinished) or blind) or recorded.ended or time.monotonic() >= deadline:
            break
    issued = lab.issued()
    return [
        (
            Evidence(
                lab.plan,
                lab.bindings,
                attempt,
                recorded,
                () if recorded.ended else ends,
                issued,
                routing,
                since.steps,
            ),
            passport,
        )
        for attempt, passport, ends in zip(span.attempts, passports, unfinished, strict=True)
    ], mark


def _settle(span: _Span, deadline: float) -> None:
    """Wait until every program has said its last word about each flow, or the time is up."""
    while True:
        now = span.lab.mark()
        recorded = digest(span.lab.collect(span.mark, ("lines", "conntrack")), span.lab.plan, {}, {}, ())
        passports = span.joined(recorded)
        waiting = any(any(span.unfinished(one)) for one in passports)
        left = deadline - time.monotonic()
        if not waiting or recorded.ended or left <= 0:
            return
        span.lab.wait_for("lines", now, min(left, LOOK_AGAIN_SECONDS))


def _with_accounts(span: _Span, recorded: Recorded) -> list[Passport]:
    """Join each flow's sightings; give connections that were seen last the time to be accounted for.

    Others use the lab too: what they began just before the barrier is logged just after it.
    """
    deadline = time.monotonic() + ACCOUNT_SECONDS
    while True:
        now = span.lab.mark()
        passports = span.joined(recorded)
        left = deadline - time.monotonic()
        if left <= 0 or not any(passport.strays for passport in passports):
            return passports
        span.lab.wait_for("lines", now, min(left, LOOK_AGAIN_SECONDS))


def _send(
    lab: RunningLab,
    items: Sequence[Item],
    mark: Mark,
    during: Callable[[], None] | None,
    instead: Sequence[Probe],
) -> list[Attempt]:
    first = items[0]
    if first.scenario.run is not None:
        command = lab.run(first.source, shlex.split(first.scenario.run), seconds=COMMAND_SECONDS)
        return [Attempt(first, first.source, mark.time, lab.mark().time, command=command)]
    probes = list(instead) or [_with_offer(probe_of(item), item, lab) for item in items]
    if first.scenario.load is not None:
        every = 1 / first.scenario.load.per_second
        probes = [replace(probe, after=number * every) for number, probe in enumerate(probes)]
    outcomes = _probed(lab, probes, during)
    again = items[: _more(len(items))]  # a load that went on has sent these over and over
    every_item = chain(items, cycle(again))
    return [
        Attempt(item, item.source, outcome.started, outcome.ended, outcome=outcome)
        for item, outcome in zip(every_item, outcomes, strict=False)
    ]


def _more(flows: int) -> int:
    """Return how many of a load's flows are sent again at a time, where its steps take longer than it does."""
    return max(1, flows // 6)


def _probed(lab: RunningLab, probes: Sequence[Probe], during: Callable[[], None] | None) -> Sequence[Outcome]:
    """Send probes; meanwhile, when a third of their time is over, do what is to be done `during` it.

    Where that takes longer than the load, the load goes on until some flows came after it.
    """
    if during is None:
        return lab.probe(probes, IN_FLIGHT)
    more, done = probes[: _more(len(probes))], list[int]()

    def send() -> Sequence[Outcome]:
        outcomes = list(lab.probe(probes, IN_FLIGHT))
        deadline = time.monotonic() + STEPS_SECONDS
        while not (done and any(one.started > done[0] for one in outcomes)) and time.monotonic() < deadline:
            outcomes += lab.probe(more, IN_FLIGHT)
        return outcomes

    with ThreadPoolExecutor(1, "load") as thread:
        sent = thread.submit(send)
        wait([sent], timeout=probes[-1].after / 3)
        try:
            during()
        finally:
            done.append(time.time_ns())
        return sent.result()


def probe_of(item: Item) -> Probe:
    """Return the probe that an item's `to`, `through` and `bypass` describe."""
    word, _ = outcome_of(item.scenario.expect)
    url = urlsplit(item.to or "")
    through = None
    if item.through:
        host, _, port = item.through.rpartition(":")
        through = (host, int(port))
    return Probe(
        id=0,
        node=item.source,
        scheme=cast('Literal["tcp", "udp", "icmp", "http", "https", "tls"]', url.scheme),
        host=url.hostname or "",
        port=url.port or _PORTS.get(url.scheme, 0),
        path=url.path or "/",
        through=through,
        mark=lookup.find("nodes", "sidecar").MARK if item.scenario.bypass == "sidecar" else 0,
        timeout=_PROBE_SECONDS[word],
        send=GREETING if url.scheme == "tls" else b"",
    )


def _with_offer(probe: Probe, item: Item, lab: RunningLab) -> Probe:
    """Return a probe over TLS with what its client shows: a certificate that the lab's authorities sign for it."""
    if probe.scheme != "tls":
        return probe
    if item.scenario.presents is None:
        return replace(probe, offer=Offer())
    authority = lab.plan.lab.mesh.ca
    makings = Makings(item.scenario.presents, lab.certificates, (authority.root, authority.intermediate))
    return replace(probe, offer=offer_of(item.attack, makings))


def _unfinished(
    passport: Passport, plan: Plan, bindings: Bindings, listening: Collection[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield (hop, what is still missing) for the flow's connections at programs that log their end.

    Not every proxy logs a connection before its end: one that arrived at a listener and is in no line is missing.
    """
    states: dict[tuple[str, str], set[str]] = {}
    logged = {(sighting.at, sighting.flow) for sighting in passport.sightings if sighting.witness == "log"}
    silent: set[str] = set()
    for sighting in passport.sightings:
        number = sighting.facts.get("conn") or sighting.facts.get("connection")
        if sighting.witness == "log" and number is not None:
            states.setdefault((sighting.at, number), set()).add(sighting.event)
        redirected = sighting.facts.get("translated", "").endswith(_INTERCEPTED)
        sidecar = f"{sighting.at} {SIDECAR}"
        if redirected and (sidecar, sighting.flow) not in logged:
            yield sidecar, "its log of the connection"
        arrived = f"{sighting.flow.dst}:{sighting.flow.dport}" if sighting.flow else ""
        if sighting.event == "opening" and (sighting.at, arrived) in listening:
            silent |= {sighting.at} - {at for at, flow in logged if flow == sighting.flow}
    for hop in silent:
        yield hop, "its log of the connection"
    for hop in _served(passport, plan, bindings) - {at for at, _ in logged}:
        yield hop, "its log of the request"
    for (hop, number), events in states.items():
        if "close" not in events:
            yield hop, f"its log of the end of connection {number}"
    for stray in passport.strays:
        yield stray.at, "a record of whom this connection was for"


def _served(passport: Passport, plan: Plan, bindings: Bindings) -> set[str]:
    """Return the pods that answered, as a gateway's log has it, and that log each request themselves."""
    answered = {
        sighting.onward.dst
        for sighting in passport.sightings
        if sighting.onward and sighting.facts.get("upstream") and not sighting.facts.get("flags")
    }
    if not answered:
        return set()
    return {
        node.name
        for node in plan.pods
        if str(bindings.pods[node.name]) in answered
        if any(getattr(lookup.find("nodes", kind), "keeps_log", _never)(node) for kind in node.kinds)
    }


def _never(_: Node) -> bool:
    return False


def _listening(plan: Plan, bindings: Bindings) -> Iterator[tuple[str, str]]:
    """Yield (node, ip:port) of every proxy's listener."""
    for node in plan.nodes:
        for kind in node.kinds:
            listeners = getattr(lookup.find("nodes", kind), "listeners", None)
            for listens in listeners(node, bindings) if listeners else ():
                yield node.name, listens
