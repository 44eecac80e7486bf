"""Tries every way out of a lab: each flow must end in the allowed path, at a guard, or in a recorded denial.

A guard is what stands on the boundary and decides: an egress proxy, a gateway, a firewall, a router. A flow that is
seen at another node outside has got out; who permitted it is what its passport says, not what the lab file allows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness import lookup, source
from harness.attempt import GREETING, observe
from harness.batches import MOST_TOGETHER
from harness.explain import describe
from harness.one_flow import SIDECAR_SECONDS
from harness.programs.probe import Probe
from harness.run import WINDOW_SECONDS
from harness.scenario import Allowed, Expect, Item, Scenario
from harness.stages import read
from harness.ways_out import Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.evidence import Evidence
    from harness.passport import Passport
    from harness.plan import Plan
    from harness.running import Mark, RunningLab
    from harness.source import Document
    from harness.stages import Decision, Reading

Fate = Literal["out", "unknown", "permitted", "denied", "kept"]
"""What came of an attempt; `out` is what must not be, `kept` ended at a guard that did not pass it on."""

PROBE_SECONDS = 0.5
_GUARDS = ("egress-proxy", "gateway", "firewall", "router", "cluster-node")
_ASKS_IDENTITY = ("egress-proxy", "egress-gateway", "mesh-host")


@dataclass(frozen=True)
class Tried:
    """An attempt and what came of it: at which hop that was decided, by which rule or for which reason.

    `passport` are its sightings in words.
    """

    way: Way
    fate: Fate
    at: str
    by: str
    passport: tuple[str, ...] = ()


def attempt(lab: RunningLab, every: Sequence[Way]) -> Iterator[Tried]:
    """Try ways out, and yield what came of each.

    So many at once that each can still be told apart: flows round the sidecar and through it in windows of their
    own, since a sidecar's connection that comes to nothing is told by its target from others of its pod.
    """
    document = source.parse(lab.source[1].encode(), os.path.relpath(lab.source[0]))
    earlier: Mark | None = None
    through = [way for way in every if _takes_sidecar(way, lab.plan)]
    round_it = [way for way in every if not _takes_sidecar(way, lab.plan)]
    for group in (round_it, through):
        for begin in range(0, len(group), MOST_TOGETHER):
            batch = group[begin : begin + MOST_TOGETHER]
            with lab.window(WINDOW_SECONDS):
                probes = [_probe(way, lab.plan) for way in batch]
                observed, earlier = observe(lab, [_item(way) for way in batch], earlier, probes=probes)
            for way, (evidence, passport) in zip(batch, observed, strict=True):
                yield judged(way, evidence, passport, document)


def _takes_sidecar(way: Way, plan: Plan) -> bool:
    pod = plan.node(way.pod).pod
    return pod is not None and pod.injected and not way.bypass and way.target.scheme == "tcp"


def _probe(way: Way, plan: Plan) -> Probe:
    through = None
    if way.target.through:
        host, _, port = way.target.through.rpartition(":")
        through = (host, int(port))
    return Probe(
        id=0,
        node=way.pod,
        scheme=way.target.scheme,
        host=way.target.host,
        port=way.target.port,
        through=through,
        mark=lookup.find("nodes", "sidecar").MARK if way.bypass else 0,
        timeout=SIDECAR_SECONDS if _takes_sidecar(way, plan) else PROBE_SECONDS,
        send=GREETING,
    )


def _item(way: Way) -> Item:
    """Return a way as the case of a scenario that nobody wrote."""
    target = way.target
    to = f"{target.scheme}://{target.host}:{target.port}"
    scenario = Scenario(name="a way out", from_=(way.pod,), expect=Expect(allowed=Allowed()))
    return Item(id=str(way), scenario=scenario, source=way.pod, to=to, path="", line=0)


def judged(way: Way, evidence: Evidence, passport: Passport, document: Document) -> Tried:
    """Return what came of an attempt, by what was recorded of it."""
    reading = read(evidence, passport, way.target.ends, document)
    fate, at, by = _fate(way, evidence, passport, reading)
    shown = (
        tuple(f"{sighting.at}: {describe(sighting)}" for sighting in passport.sightings)
        if fate in ("out", "unknown")
        else ()
    )
    return Tried(way, fate, at, by, shown)


def _fate(way: Way, evidence: Evidence, passport: Passport, reading: Reading) -> tuple[Fate, str, str]:
    plan = evidence.plan
    if reading.no is None and passport.strays:
        return "unknown", passport.strays[0].at, "a connection that nobody's log accounts for"
    for decision in reading.permits:
        if _kind(decision.at, plan) in _ASKS_IDENTITY:
            return "permitted", decision.at, _words(decision)
    if reading.no is not None:
        return "denied", reading.no.at, _words(reading.no)
    allowed = [one for one in reading.permits if not one.at.endswith(" sidecar")]
    if allowed:
        return _by_address(allowed, passport, plan)
    if reading.lost:
        return "unknown", "", "; ".join(reading.lost)
    return _unruled(way, evidence, passport, reading)


def _by_address(allowed: Sequence[Decision], passport: Passport, plan: Plan) -> tuple[Fate, str, str]:
    """Return the fate of a flow that rules of addresses alone let through: theirs must be its own."""
    for decision in allowed:
        owner = _owner(decision, plan)
        if owner and not any(hop in owner for hop in passport.hops()):
            return "out", decision.at, f"{_words(decision)}, which is for {' and '.join(owner)}"
    return "permitted", allowed[-1].at, _words(allowed[-1])


def _unruled(way: Way, evidence: Evidence, passport: Passport, reading: Reading) -> tuple[Fate, str, str]:
    """Return the fate of a flow of which no hop recorded a decision: how far it was seen is all there is."""
    plan, target = evidence.plan, way.target
    beyond = [hop for hop in passport.hops() if _is_beyond(hop, plan)]
    if beyond:
        closed = (
            " (nothing listens there, and nothing kept the flow from it)" if target.state == "closed" else ""
        )
        return "out", beyond[0], f"no rule permitted it{closed}"
    if reading.refused is not None:
        what = "TCP RST" if reading.refused.event == "reset" else f"ICMP {reading.refused.facts['icmp']}"
        return "denied", reading.refused.at, f"answered with {what}"
    if reading.reached:
        answered = "answered itself" if evidence.attempt.succeeded else "did not answer"
        return "kept", target.ends[0], f"{answered}, and passed nothing on"
    last = passport.hops()[-1] if passport.hops() else "nowhere"
    outcome = evidence.attempt.outcome
    said = f"{outcome.stage}: {outcome.status} {outcome.detail}".strip() if outcome else ""
    return "unknown", last, f"last seen there; the client saw {said}"


def _words(decision: Decision) -> str:
    return decision.rule + (f", {decision.place}" if decision.place else "")


def _kind(hop: str, plan: Plan) -> str:
    """Return the kind that decides at a hop: of a pod the one beside the workload."""
    node = next((one for one in plan.nodes if one.name == hop), None)
    return node.kinds[-1] if node is not None else ""


def _is_beyond(hop: str, plan: Plan) -> bool:
    """Tell whether a hop lies outside and is no guard: what is seen there has got out."""
    node = next((one for one in plan.nodes if one.name == hop), None)
    return node is not None and node.placement == "outside" and node.kinds[-1] not in _GUARDS


def _owner(decision: Decision, plan: Plan) -> tuple[str, ...]:
    """Return whose flows a firewall's rule is for, where its `from` is an address that stands for somebody else.

    That of an SNAT pool stands for its egress proxy; that of a cluster node on which egress gateways run, for them.
    """
    spec = plan.lab.outside.get(decision.at)
    rule = next((one for one in getattr(spec, "rules", ()) if one.name == decision.rule), None)
    name = getattr(rule, "from_", None) or ""
    pool = name.removeprefix("snat/")
    if pool != name:
        return tuple(
            node.name for node in plan.nodes if pool in (getattr(node.spec, "snat_pools", None) or {})
        )
    return tuple(node.name for node in plan.of_kind("egress-gateway") if node.host == name)
