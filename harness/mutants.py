"""What may be wrong with a lab: each rule, policy, SNAT entry, route and certificate check, taken away or widened.

A mutant is one such mistake, at its place in the lab file. Which scenarios notice it is found out by running them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from harness import mutants_cluster, mutants_mesh, mutants_outside, mutants_policies
from harness.mutation import Loc, Mutation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.plan import Bindings, Plan
    from harness.routing import KernelRoute

KEYS = {
    "from_": "from",
    "policy_types": "policyTypes",
    "ip_block": "ipBlock",
    "except_": "except",
    "pod_selector": "podSelector",
}
"""Attributes that are called otherwise in the file."""


@dataclass(frozen=True)
class Mutant:
    """One mistake: its name (`place: what`), its place in the lab file, the nodes that it touches, and what it does."""

    name: str
    loc: Loc
    hops: tuple[str, ...]
    mutation: Mutation

    def __str__(self) -> str:
        return self.name


def mutants(
    plan: Plan, bindings: Bindings, routes: Mapping[str, Sequence[KernelRoute]]
) -> tuple[Mutant, ...]:
    """Return every mutant of a lab, its nodes' routes as their kernels have them; no two have the same name."""
    found: list[Mutant] = []
    taken = _taken(plan, bindings)
    for name, spec in plan.lab.outside.items():
        for below, what, value in mutants_outside.edits(spec, plan.lab, taken):
            loc = ("outside", name, *below)
            found.append(_edit(loc, what, value, plan, (name,)))
        for what, runtime in mutants_mesh.at_proxy(name, spec, plan.lab):
            found.append(_at(("outside", name), what, Mutation(runtime=runtime), plan, (name,)))
    for loc, what, value, hops in _of_cluster(plan):
        found.append(_edit(loc, what, value, plan, hops))
    for loc, what, runtime, hops in mutants_mesh.at_sidecars(plan):
        found.append(_at(loc, what, Mutation(runtime=runtime), plan, hops))
    for node, destination in mutants_cluster.written(plan, routes):
        whose = mutants_cluster.named(destination, plan, bindings)
        loc = ("outside", node) if node in plan.lab.outside else ("cluster", "nodes", node)
        mutation = Mutation(route=(node, str(destination)))
        found.append(Mutant(f"{dotted(loc, plan)}: no route to {whose}", loc, (node,), mutation))
    return tuple({mutant.name: mutant for mutant in found}.values())


def _of_cluster(plan: Plan) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    yield from mutants_mesh.edits(plan)
    yield from mutants_cluster.edits(plan)
    yield from mutants_policies.edits(plan.lab)


def _edit(loc: Loc, what: str, value: Any, plan: Plan, hops: tuple[str, ...]) -> Mutant:
    return _at(loc, what, Mutation(edits={loc: value}), plan, hops)


def _at(loc: Loc, what: str, mutation: Mutation, plan: Plan, hops: tuple[str, ...]) -> Mutant:
    return Mutant(f"{dotted(loc, plan)}: {what}", loc, hops, mutation)


def in_file(loc: Loc) -> Loc:
    """Return a place of the lab as the place in its file."""
    return tuple(KEYS.get(part, part) if isinstance(part, str) else part for part in loc)


def dotted(loc: Loc, plan: Plan) -> str:
    """Return a place in words, with the name of an element of a list where it has one."""
    words: list[str] = []
    here: Any = plan.lab
    for part in loc:
        if isinstance(part, int):
            here = here[part] if part < len(here) else None
            words.append(str(getattr(here, "name", None) or part))
        else:
            here = here.get(part) if isinstance(here, Mapping) else getattr(here, part, None)
            words.append(KEYS.get(part, part))
    return ".".join(words)


def _taken(plan: Plan, bindings: Bindings) -> frozenset[IPv4Address]:
    """Return every address that somebody has."""
    declared = [
        address
        for spec in plan.lab.outside.values()
        for pool in (getattr(spec, "snat_pools", None) or {}).values()
        for address in pool
    ]
    listening = [
        IPv4Address(server.listen.rpartition(":")[0])
        for spec in plan.lab.outside.values()
        for server in (getattr(spec, "virtual_servers", None) or {}).values()
    ]
    return frozenset((*bindings.addresses.values(), *bindings.second.values(), *declared, *listening))
