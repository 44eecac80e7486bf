"""What of a lab its flows have exercised, by the evidence of a run: decisions, counters, addresses that were seen.

A scenario that names a rule proves nothing here; a rule counts when a hop recorded that it decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.denial import rule_of
from harness.plan import DNS_SERVICE, counter_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.evidence import Evidence, Sighting
    from harness.passport import Passport
    from harness.plan import Bindings, Plan
    from harness.run import Result

_Loc = tuple[str | int, ...]


_ONE = {
    "namespaces": "namespace",
    "workloads": "workload",
    "network policies": "network policy",
    "services": "service",
    "rules": "rule",
    "policies": "policy",
    "listeners": "listener",
    "pool members": "pool member",
}
"""Each kind of thing, and one of it."""


@dataclass(frozen=True)
class Part:
    """A part of a lab that flows may exercise: what kind of thing, its name, where it stands in the lab file."""

    kind: str
    name: str
    loc: _Loc

    def __str__(self) -> str:
        return f"{_ONE[self.kind]} {self.name}"


@dataclass(frozen=True)
class Exercised:
    """Every part with the case that exercised it first; none for a part that no flow met."""

    by: Mapping[Part, str | None]

    @property
    def missing(self) -> tuple[Part, ...]:
        """The parts that no flow met, in the order of the lab file's keys."""
        return tuple(part for part, case in self.by.items() if case is None)

    @property
    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Of each kind how many parts were exercised, and how many there are."""
        found: dict[str, tuple[int, int]] = {}
        for part, case in self.by.items():
            met, every = found.get(part.kind, (0, 0))
            found[part.kind] = (met + (case is not None), every + 1)
        return found

    def __str__(self) -> str:
        met = sum(case is not None for case in self.by.values())
        kinds = ", ".join(f"{met} of {every} {kind}" for kind, (met, every) in self.counts.items())
        return f"exercised {met} of {len(self.by)} parts of the lab ({kinds})"


def exercised(results: Iterable[Result], plan: Plan, bindings: Bindings) -> Exercised:
    """Return what results show of a lab; those without evidence show nothing."""
    by: dict[Part, str | None] = dict.fromkeys(parts(plan))
    for result in results:
        if result.evidence is None or result.passport is None:
            continue
        met = set(_met(result.evidence, result.passport, plan, bindings))
        by |= {
            part: result.item.id for part, case in by.items() if case is None and (part.kind, part.loc) in met
        }
    return Exercised(by)


def of_run(results: Sequence[Result]) -> Exercised | None:
    """Return what the results of a run show of the lab as its file has it; None for a run without evidence.

    A case with steps was tried on a lab that they had changed.
    """
    seen = [result for result in results if result.evidence is not None]
    seen.sort(key=lambda result: bool(result.item.scenario.given or result.item.scenario.during))
    if not seen or seen[0].evidence is None:
        return None
    return exercised(results, seen[0].evidence.plan, seen[0].evidence.bindings)


def parts(plan: Plan) -> Iterator[Part]:
    """Yield every part of a lab that flows may exercise."""
    lab = plan.lab
    for namespace, tenant in lab.namespaces.items():
        yield Part("namespaces", namespace, ("namespaces", namespace))
        for workload in tenant.workloads:
            name = f"{namespace}/{workload}"
            yield Part("workloads", name, ("namespaces", namespace, "workloads", workload))
        for policy in tenant.network_policies:
            name = f"{namespace}/{policy}"
            yield Part("network policies", name, ("namespaces", namespace, "network_policies", policy))
    for name in lab.services:
        yield Part("services", name, ("services", name))
    for name, spec in lab.outside.items():
        for kind, what, below in _of_node(spec):
            yield Part(kind, f"{name} {what}", ("outside", name, *below))


def _of_node(spec: object) -> Iterator[tuple[str, str, _Loc]]:
    for below in (("rules",), ("firewall", "rules")):
        for index, rule in enumerate(_at(spec, below)):
            yield "rules", rule.name, (*below, index)
    for policy, entries in (getattr(spec, "policies", None) or {}).items():
        for index in range(len(entries)):
            yield "policies", f"{policy} {index}", ("policies", policy, index)
    for key in ("virtual_servers", "listeners"):
        for name in getattr(spec, key, None) or {}:
            yield "listeners", name, (key, name)
    for pool, members in (getattr(spec, "snat_pools", None) or {}).items():
        for index, member in enumerate(members):
            yield "pool members", f"{pool} {member}", ("snat_pools", pool, index)


def _at(spec: object, keys: Sequence[str]) -> Sequence[Any]:
    for key in keys:
        spec = getattr(spec, key, None)
    return spec if isinstance(spec, tuple) else ()


def _met(
    evidence: Evidence, passport: Passport, plan: Plan, bindings: Bindings
) -> Iterator[tuple[str, _Loc]]:
    """Yield (kind, place) of what one flow exercised."""
    seen = {evidence.attempt.pod, *(sighting.at.partition(" ")[0] for sighting in passport.sightings)}
    for node in plan.pods:
        if node.pod is not None and node.name in seen:
            yield "namespaces", ("namespaces", node.pod.namespace)
            yield "workloads", ("namespaces", node.pod.namespace, "workloads", node.pod.workload)
    addresses = _addresses(passport)
    for full, service in plan.services.items():
        name = full.rpartition("/")[2]
        if full != DNS_SERVICE and name in plan.lab.services:
            asked = (str(bindings.cluster_ips[full]), service.port) in addresses
            if asked or any(one.facts.get("upstream_cluster") == full for one in passport.sightings):
                yield "services", ("services", name)
    for node in plan.nodes:
        if node.placement == "outside":
            for kind, below in _met_outside(node.name, node.spec, evidence, passport):
                yield kind, ("outside", node.name, *below)
    yield from _policies(evidence, plan)


def _addresses(passport: Passport) -> set[tuple[str, int]]:
    return {(flow.dst, flow.dport) for flow in passport.flows}


def _counted(evidence: Evidence, node: str, prefix: str, name: str) -> bool:
    """Tell whether a counter of a node went up while the flow was watched."""
    before, after = evidence.recorded.counters.get(node, {}).get(counter_name(prefix, name), (0, 0))
    return after > before


def _policies(evidence: Evidence, plan: Plan) -> Iterator[tuple[str, _Loc]]:
    """Yield the NetworkPolicies that let something pass or kept it, as the counters of cluster nodes have it."""
    for namespace, tenant in plan.lab.namespaces.items():
        for policy in tenant.network_policies:
            name = f"{namespace}/{policy}"
            if any(
                _counted(evidence, node.name, prefix, name)
                for node in plan.cluster_nodes
                for prefix in ("rule", "denied")
            ):
                yield "network policies", ("namespaces", namespace, "network_policies", policy)


def _met_outside(
    name: str, spec: object, evidence: Evidence, passport: Passport
) -> Iterator[tuple[str, _Loc]]:
    here = [sighting for sighting in passport.sightings if sighting.at == name]
    rules = {rule_of(sighting) for sighting in here}
    for below in (("rules",), ("firewall", "rules")):
        for index, rule in enumerate(_at(spec, below)):
            if rule.name in rules or _counted(evidence, name, "rule", rule.name):
                yield "rules", (*below, index)
    for sighting in here:
        yield from _by_proxy(sighting, spec)
    for listener in getattr(spec, "listeners", None) or {}:
        if _counted(evidence, name, "accepted", listener):
            yield "listeners", ("listeners", listener)
    sources = {flow.src for flow in passport.flows}
    for pool, members in (getattr(spec, "snat_pools", None) or {}).items():
        for index, member in enumerate(members):
            if str(member) in sources:
                yield "pool members", ("snat_pools", pool, index)


def _by_proxy(sighting: Sighting, spec: object) -> Iterator[tuple[str, _Loc]]:
    """Yield what an egress proxy's log names: the rule that matched, and the virtual server."""
    matched, policy = sighting.facts.get("matched"), rule_of(sighting)
    if matched is not None and policy in (getattr(spec, "policies", None) or {}):
        yield "policies", ("policies", policy, int(matched))
    server = sighting.facts.get("virtual_server")
    if server in (getattr(spec, "virtual_servers", None) or {}):
        yield "listeners", ("virtual_servers", str(server))
