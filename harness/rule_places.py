"""Where in the lab file the rule stands by which a hop decided: what it recorded, and then the file's own place of it.

The name of the rule is what the hop wrote down; only its line comes from the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.denial import rule_of
from harness.evidence import RP_FILTER, SIDECAR, UNREACHABLE, Sighting
from harness.mtls import CLIENT_RULES, SERVER_CERTIFICATE, SERVER_RULES, SERVER_TLS
from harness.proxy import AUTHORIZATION_POLICY, CLIENT_CERTIFICATE
from harness.snat_ports import EXHAUSTED

if TYPE_CHECKING:
    from harness.lab import Lab, Pod
    from harness.plan import Plan
    from harness.source import Document

_Loc = tuple[str | int, ...]
_OF_GATEWAYS = {
    RP_FILTER: ((RP_FILTER, "the way back is by another interface"),),
    EXHAUSTED: (("snat_ports", ""),),
}
"""What a gateway's own words are due to, by key."""

DEFAULT = "default"
"""What a firewall calls its last rule, which nobody wrote: what no rule allows is dropped."""


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file, from 1, and what stands there; `says` is for what the line itself does not say."""

    path: str
    line: int
    says: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f" ({self.says})" if self.says else "")


def place_of(sighting: Sighting, plan: Plan, document: Document) -> Place | None:
    """Return where the rule of a decision is written; None for what no file says, as a router's lack of a route."""
    for loc, says in _written(sighting, plan):
        if _exists(loc, document):
            line, _ = document.position(loc, key=isinstance(loc[-1], str))
            return Place(document.path, line, says)
    return None


def _written(sighting: Sighting, plan: Plan) -> Iterator[tuple[_Loc, str]]:
    """Yield where the rule may be written, the most telling place first, each with what the place does not say."""
    rule, lab = rule_of(sighting), plan.lab
    node, _, container = sighting.at.partition(" ")
    if rule in UNREACHABLE.values():
        return
    if container == SIDECAR:
        yield from _of_sidecar(sighting, node, rule, plan)
    elif node in lab.outside:
        yield from _of_outside(sighting, node, rule, lab)
    elif lab.cluster is not None and node in lab.cluster.nodes:
        namespace, _, name = rule.partition("/")
        denies = sighting.event == "drop"
        says = "it isolates the pod, and no rule of such a policy allows this" if denies else ""
        yield ("namespaces", namespace, "network_policies", name), says
    else:
        pod = next((found.pod for found in plan.pods if found.name == node), None)
        if pod is not None:
            written = ("namespaces", pod.namespace, "workloads", pod.workload)
            if rule == AUTHORIZATION_POLICY:
                yield (*written, "egress", "allow"), ""
            yield (*written, "egress"), f"{rule}: it demands a certificate of the mesh"


def _of_outside(sighting: Sighting, node: str, rule: str, lab: Lab) -> Iterator[tuple[_Loc, str]]:
    spec, here = lab.outside[node], ("outside", node)
    for loc in ((*here, "rules"), (*here, "firewall", "rules")):  # a gateway has its firewall within
        for index, written in enumerate(_rules_at(spec, loc[2:])):
            if written.name == rule:
                yield (*loc, index), ""
        if rule == DEFAULT:
            yield loc, "no rule here allows it"
    if rule in getattr(spec, "policies", {}):
        matched = sighting.facts.get("matched")
        if matched is not None:
            yield (*here, "policies", rule, int(matched)), ""
        yield (*here, "policies", rule), "" if matched is not None else "no rule here matches"
    yield from (((*here, key), says) for key, says in _OF_GATEWAYS.get(rule, ()))
    if rule == CLIENT_CERTIFICATE:
        server = sighting.facts.get("virtual_server", "")
        yield (*here, "virtual_servers", server, "client_certificate"), ""
        yield (*here, "virtual_servers", server), "a client certificate is demanded where nothing is said"
    if rule == AUTHORIZATION_POLICY:
        yield (*here, "allow"), ""
    yield here, f"{rule}: what this kind of node does"


def _rules_at(spec: object, keys: _Loc) -> Sequence[Any]:
    for key in keys:
        spec = getattr(spec, str(key), None)
    return spec if isinstance(spec, tuple) else ()


def _of_sidecar(sighting: Sighting, node: str, rule: str, plan: Plan) -> Iterator[tuple[_Loc, str]]:
    pod = plan.node(node).pod
    mtls: _Loc = ("mesh", "mtls")
    if pod is None:
        return
    whose = (f"{pod.namespace}/{pod.workload}", pod.namespace)
    if rule in SERVER_RULES:
        for name in whose:
            yield (*mtls, "overrides", name), ""
        yield (*mtls, "default"), ""
    if rule in CLIENT_RULES:
        yield from _of_client(sighting, rule, whose, pod, plan)
    if rule in (*SERVER_RULES, *CLIENT_RULES):
        yield mtls, "the default, where nothing is said"
        yield ("mesh",), "the default, where nothing is said"


def _of_client(
    sighting: Sighting, rule: str, whose: tuple[str, str], pod: Pod, plan: Plan
) -> Iterator[tuple[_Loc, str]]:
    """Yield what makes a client's sidecar refuse a server: the identity it must have, or that it must speak TLS."""
    service = sighting.facts.get("upstream_cluster", "").partition("/")[2]
    if rule in (SERVER_CERTIFICATE, SERVER_TLS):
        for name in whose:
            yield ("mesh", "mtls", "clients", name), ""
    if service in plan.lab.services:
        yield ("services", service, "server_identity"), ""
        yield ("services", service, "tls"), ""
    workloads = ("namespaces", pod.namespace, "workloads", pod.workload)
    yield (*workloads, "certificate"), "its own certificate, and what it trusts"


def _exists(loc: _Loc, document: Document) -> bool:
    data = document.data
    for part in loc:
        known = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if part not in known:
            return False
        data = data[part]
    return data is not None
