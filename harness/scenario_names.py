"""The names of a lab that its scenarios may use: pods, hops, taps, sources, rules, services."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from harness import lookup
from harness.lab import pods, services
from harness.lab_checks import snat_pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.lab import Lab
    from harness.scenario_model import Scenario

SIDECAR = "sidecar"
CLUSTER_DOMAIN = "cluster.local"
_SIDECAR_RULES = ("server-identity",)


@dataclass(frozen=True)
class Words:
    """The names of a lab that a scenario may use."""

    lab: Lab
    pods: tuple[str, ...]
    hops: tuple[str, ...]
    taps: tuple[str, ...]
    origins: tuple[str, ...]
    services: tuple[str, ...]

    def rules(self, hop: str) -> tuple[str, ...]:
        """Return what may stand under `by` for a hop."""
        if hop == SIDECAR:
            return _SIDECAR_RULES
        outside = self.lab.outside.get(hop)
        if outside is not None:
            deciders = getattr(lookup.find("nodes", outside.kind), "deciders", None)
            return tuple(deciders(outside)) if deciders else ()
        pod = next((pod for pod in pods(self.lab) if pod.name == hop), None)
        if pod is None or pod.spec.runs not in lookup.names("nodes"):
            return ()
        deciders = getattr(lookup.find("nodes", pod.spec.runs), "deciders", None)
        return tuple(deciders(pod.spec)) if deciders else ()

    def reaches(self, host: str, namespace: str) -> bool:
        """Say whether a pod of a namespace finds a host: an outside node, or a service by a DNS name."""
        service, _, rest = host.removesuffix(f".svc.{CLUSTER_DOMAIN}").removesuffix(".svc").partition(".")
        return host in self.lab.outside or f"{rest or namespace}/{service}" in self.services


def words_of(lab: Lab) -> Words:
    """Return the names that scenarios may use."""
    outside = tuple(lab.outside)
    every = tuple(pod.name for pod in pods(lab))
    taps = [f"{name}.{network}" for name, spec in lab.outside.items() for network in spec.on]
    if lab.cluster is not None:
        taps += [f"{name}.{lab.cluster.network}" for name in lab.cluster.nodes]
    taps += [f"{pod}.eth0" for pod in every]
    nodes = tuple(lab.cluster.nodes) if lab.cluster is not None else ()
    origins = ("node", "pod", *(f"snat/{pool}" for pool in snat_pools(lab)), *outside, *nodes)
    hops = (SIDECAR, "node", *outside, *_within(lab), *every)
    return Words(lab, every, hops, tuple(taps), origins, tuple(services(lab)))


def _within(lab: Lab) -> Iterator[str]:
    """Yield the hops that lie within outside nodes, as `NODE/PART`."""
    for name, spec in lab.outside.items():
        parts = getattr(lookup.find("nodes", spec.kind), "parts", None)
        for part in parts(spec) if parts else ():
            yield f"{name}/{part}"


def matches(pattern: str, every: tuple[str, ...]) -> tuple[str, ...]:
    """Return the pods that a name with `*` for any text stands for, in the lab's order."""
    literal = pattern.replace("[", "[[]").replace("?", "[?]")  # of fnmatch's signs, only `*` is one here
    return tuple(pod for pod in every if fnmatchcase(pod, literal))


def with_created(words: Words, scenario: Scenario) -> Words:
    """Return the names with those of the pods that a scenario's steps create."""
    made = tuple(step.create for step in scenario.given if step.create is not None)
    taps = tuple(f"{pod}.eth0" for pod in made)
    return replace(words, pods=words.pods + made, hops=words.hops + made, taps=words.taps + taps)
