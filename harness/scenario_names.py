"""The names of a lab that its scenarios may use: pods, clients, hops, taps, sources, rules, services."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from harness import lookup
from harness.egress_ways import ways_out
from harness.lab import SERVING, pod_host, pods, services
from harness.lab_checks import snat_pools
from harness.lookup import nearest
from harness.overlay_checks import tunnel_taps
from harness.policy_checks import policy_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.lab import Lab
    from harness.scenario_model import Scenario

SIDECAR = "sidecar"
APP = "app"
CLUSTER_DOMAIN = "cluster.local"
OUTSIDE = ""
"""In place of a namespace: where clients outside the cluster are."""


@dataclass(frozen=True)
class Words:
    """The names of a lab that a scenario may use."""

    lab: Lab
    pods: tuple[str, ...]
    clients: tuple[str, ...]
    hops: tuple[str, ...]
    taps: tuple[str, ...]
    origins: tuple[str, ...]
    services: tuple[str, ...]

    @property
    def entrances(self) -> tuple[str, ...]:
        """The hosts that the lab's routes are for."""
        return tuple(host for route in self.lab.routes.values() for host in route.hosts)

    @property
    def pod_hosts(self) -> tuple[str, ...]:
        """The names by which nodes outside know pods: where BGP brings their addresses there."""
        bgp = self.lab.cluster.bgp if self.lab.cluster else None
        return tuple(pod_host(pod) for pod in self.pods) if bgp and bgp.peers else ()

    def rules(self, hop: str) -> tuple[str, ...]:
        """Return what may stand under `by` for a hop."""
        if hop == SIDECAR:
            return tuple(lookup.find("nodes", SIDECAR).CLIENT_RULES)
        if hop.endswith(f" {SIDECAR}"):
            return tuple(lookup.find("nodes", SIDECAR).SERVER_RULES)
        if hop == "node" or (self.lab.cluster is not None and hop in self.lab.cluster.nodes):
            return policy_names(self.lab)
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
        """Say whether a host is found: an outside node by all, a service by pods, a route's by clients outside.

        `namespace` is that of a pod, or `OUTSIDE`.
        """
        if namespace == OUTSIDE:
            return host in self.lab.outside or host in (*self.entrances, *self.pod_hosts)
        service, _, rest = host.removesuffix(f".svc.{CLUSTER_DOMAIN}").removesuffix(".svc").partition(".")
        return host in self.lab.outside or f"{rest or namespace}/{service}" in self.services

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes outside, and the cluster's."""
        return (*self.lab.outside, *(self.lab.cluster.nodes if self.lab.cluster else ()))

    @property
    def links(self) -> list[str]:
        """The taps whose link can be taken down; loopback has none."""
        return [tap for tap in self.taps if not tap.endswith(".lo")]

    def unknown_hop(self, hop: str, *more: str) -> str | None:
        """Return what is wrong with the name of a hop, None for nothing; `more` names may stand there too."""
        if hop in (*self.hops, *more):
            return None
        # containers are told to who means one: they would more than double the list
        known = [name for name in (*self.hops, *more) if (" " in name) == (" " in hop)]
        return f"unknown hop {hop!r}; {nearest(hop, known)}"


def words_of(lab: Lab) -> Words:
    """Return the names that scenarios may use."""
    outside = tuple(lab.outside)
    every = tuple(pod.name for pod in pods(lab))
    taps = [f"{name}.{network}" for name, spec in lab.outside.items() for network in spec.on]
    if lab.cluster is not None:
        taps += [f"{name}.{lab.cluster.network_of(name)}" for name in lab.cluster.nodes]
        for _, way in ways_out(lab.cluster):
            taps += [f"{name}.{where}" for name in lab.cluster.nodes for where in (way.network, way.shim)]
    for name in (*outside, *(lab.cluster.nodes if lab.cluster else ())):
        taps += [f"{name}.{tap}" for tap in tunnel_taps(name, lab)]
    taps += [f"{pod}.eth0" for pod in every]
    second = [pod.name for pod in pods(lab) if pod.spec.net1 is not None]
    taps += [f"{name}.net1" for name in second]
    servers = [pod.name for pod in pods(lab) if pod.injected and pod.spec.runs in SERVING]
    taps += [f"{name}.lo" for name in servers]
    nodes = tuple(lab.cluster.nodes) if lab.cluster is not None else ()
    origins = ("node", "pod", *(("net1",) if second else ()), *_translated(lab), *outside, *nodes)
    hops = (SIDECAR, "node", *nodes, *outside, *_within(lab), *every, *_containers(servers))
    clients = tuple(
        name for name, spec in lab.outside.items() if getattr(lookup.find("nodes", spec.kind), "SENDS", False)
    )
    return Words(lab, every, clients, hops, tuple(taps), origins, tuple(services(lab)))


def _translated(lab: Lab) -> Iterator[str]:
    """Yield the addresses that proxies and gateways put in place of the client's: of pools, and of their own."""
    yield from (f"snat/{pool}" for pool in snat_pools(lab))
    for spec in lab.outside.values():
        listeners = getattr(spec, "listeners", {})
        yield from (f"automap/{name}" for name, one in listeners.items() if one.snat == "automap")


def _within(lab: Lab) -> Iterator[str]:
    """Yield the hops that lie within outside nodes, as `NODE/PART`."""
    for name, spec in lab.outside.items():
        parts = getattr(lookup.find("nodes", spec.kind), "parts", None)
        for part in parts(spec) if parts else ():
            yield f"{name}/{part}"


def _containers(servers: list[str]) -> Iterator[str]:
    """Yield the hops that lie within pods which are reached through a sidecar of their own."""
    for name in servers:
        yield from (f"{name} {SIDECAR}", f"{name} {APP}")


def sources(pattern: str, words: Words) -> tuple[str, ...]:
    """Return the pods and the clients outside that a `from` stands for."""
    return matches(pattern, words.pods + words.clients)


def matches(pattern: str, every: tuple[str, ...]) -> tuple[str, ...]:
    """Return the pods that a name with `*` for any text stands for, in the lab's order."""
    literal = pattern.replace("[", "[[]").replace("?", "[?]")  # of fnmatch's signs, only `*` is one here
    return tuple(pod for pod in every if fnmatchcase(pod, literal))


def namespace_of(sender: str) -> str:
    """Return the namespace of a pod, or OUTSIDE of a client that is none."""
    return sender.partition("/")[0] if "/" in sender else OUTSIDE


def with_created(words: Words, scenario: Scenario) -> Words:
    """Return the names with those of the pods that a scenario's steps create."""
    made = tuple(step.create for step in scenario.given if step.create is not None)
    taps = tuple(f"{pod}.eth0" for pod in made)
    return replace(words, pods=words.pods + made, hops=words.hops + made, taps=words.taps + taps)
