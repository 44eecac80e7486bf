"""Mistakes of the mesh: who is believed, who is asked for a certificate, what is intercepted, who may pass."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.lab import SERVING, pods
from harness.mutants_outside import allowing
from harness.mutation import Loc
from harness.route_checks import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.identity import Certificates
    from harness.lab import Lab, Route
    from harness.plan import Node, Plan, Runtime

    Alter = Callable[[Node, Runtime, Certificates], Runtime]

_MODES = {"strict": ("permissive", "disable"), "permissive": ("strict", "disable"), "disable": ("strict",)}
_INTERCEPTION = "table ip interception {"
_STRANGERS = ("foreign", "retired")
_CHECKING = ("identity", "allow")
"""A kind of node outside that has one of these keys checks certificates of the mesh."""


def edits(plan: Plan) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    """Yield other policies of mutual TLS, services without secure naming, gateways and routes that are wrong."""
    lab = plan.lab
    if lab.mesh.provider != "none":
        yield from _modes(plan)
    for name, service in lab.services.items():
        hops = tuple(pod.name for pod in plan.pods)
        if service.tls == "mutual":
            yield ("services", name, "tls"), "no mutual TLS", "none", hops
        if service.server_identity is not None:
            yield ("services", name, "server_identity"), "anybody of the mesh may answer", None, hops
    for pod in pods(lab):
        here = ("namespaces", pod.namespace, "workloads", pod.workload, "egress")
        for below, what, value in allowing(pod.spec.egress):
            yield (*here, *below), what, value, (pod.name,)
    for name, route in lab.routes.items():
        if len(route.to) > 1:
            yield from _split(("routes", name, "to"), route)


def _split(here: Loc, route: Route) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    for index, one in enumerate(route.to):
        left = tuple(
            other.model_copy(update={"weight": 0 if number == index else 100 // (len(route.to) - 1)})
            for number, other in enumerate(route.to)
        )
        yield here, f"nothing goes to {name_of(one)}", left, (route.gateway,)
    weights = [one.weight for one in route.to]
    turned = [
        one.model_copy(update={"weight": weight}) for one, weight in zip(route.to, weights[::-1], strict=True)
    ]
    if weights != weights[::-1]:
        yield here, "weights the other way round", tuple(turned), (route.gateway,)


def _modes(plan: Plan) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    policy, here = plan.lab.mesh.mtls, ("mesh", "mtls")
    hops = tuple(pod.name for pod in plan.pods)
    for other in _MODES[policy.default]:
        yield (*here, "default"), f"{other} in place of {policy.default}", other, hops
    for name, mode in policy.overrides.items():
        for other in _MODES[mode]:
            yield (*here, "overrides", name), f"{other} in place of {mode}", other, (name,)
    for name, sends in policy.clients.items():
        other = "disable" if sends == "istio_mutual" else "istio_mutual"
        yield (*here, "clients", name), f"{other} in place of {sends}", other, (name,)


def at_proxy(name: str, spec: Any, lab: Lab) -> Iterator[tuple[str, Alter]]:
    """Yield mistakes of who is believed by a node outside that checks certificates."""
    if _has_strangers(lab) and any(hasattr(spec, key) for key in _CHECKING):
        yield "trusts another authority too", trusting(lambda node: node.name == name)


def at_sidecars(plan: Plan) -> Iterator[tuple[Loc, str, Alter, tuple[str, ...]]]:
    """Yield mistakes of sidecars: what they believe, and that they do not stand in the way at all."""
    injected = [node for node in plan.pods if "sidecar" in node.kinds]
    gateways = [node for node in plan.pods if {"egress-gateway", "ingress-gateway"} & set(node.kinds)]
    everywhere = tuple(node.name for node in injected)
    strangers = _has_strangers(plan.lab)
    if injected and strangers:
        names = frozenset(everywhere)
        yield (
            ("mesh",),
            "sidecars trust another authority too",
            trusting(lambda node: node.name in names),
            everywhere,
        )
    for node in gateways:
        if node.pod is not None and strangers:
            loc = ("namespaces", node.pod.namespace, "workloads", node.pod.workload)
            yield loc, "trusts another authority too", trusting(_is(node.name)), (node.name,)
    if any(node.pod and node.pod.spec.runs in SERVING for node in injected):
        yield ("mesh", "mtls"), "servers' names are not checked", _unnamed, everywhere
    for node in injected:
        if node.pod is not None:
            loc = ("namespaces", node.pod.namespace, "workloads", node.pod.workload)
            version = f" of {node.pod.version}" if node.pod.version else ""
            yield loc, f"nothing{version} is intercepted", _bare(node.name), (node.name,)


def _has_strangers(lab: Lab) -> bool:
    """Tell whether anybody has a certificate of another authority, by which a wrong belief could be noticed."""
    return any(pod.spec.certificate.issuer != "mesh" for pod in pods(lab))


def trusting(whom: Callable[[Node], bool]) -> Alter:
    """Return what puts an authority that is not the mesh's among those whom a node believes."""

    def alter(node: Node, runtime: Runtime, certificates: Certificates) -> Runtime:
        if not whom(node):
            return runtime
        # a root as it stands in files, and as JSON within one
        mesh = certificates.roots["mesh"]
        other = "".join(root for issuer, root in certificates.roots.items() if issuer in _STRANGERS)
        quoted = json.dumps(mesh)[1:-1], json.dumps(mesh + other)[1:-1]
        files = tuple(
            replace(file, content=file.content.replace(mesh, mesh + other).replace(*quoted))
            for file in runtime.files
        )
        return replace(runtime, files=files)

    return alter


def _is(name: str) -> Callable[[Node], bool]:
    return lambda node: node.name == name


def _bare(name: str) -> Alter:
    def alter(node: Node, runtime: Runtime, certificates: Certificates) -> Runtime:  # noqa: ARG001 - Alter's form
        return replace(runtime, rules=without_table(runtime.rules)) if node.name == name else runtime

    return alter


def without_table(rules: str) -> str:
    """Return the rules without the table that sends a pod's traffic through its sidecar."""
    before, found, after = rules.partition(_INTERCEPTION)
    return before + after.partition("\n}\n")[2] if found else rules


def _unnamed(node: Node, runtime: Runtime, certificates: Certificates) -> Runtime:  # noqa: ARG001 - Alter's form
    """Take the names of servers out of what sidecars demand of them."""
    if "sidecar" not in node.kinds:
        return runtime
    files = tuple(
        replace(file, content=json.dumps(_unchecked(json.loads(file.content))))
        if file.path == "envoy.json"
        else file
        for file in runtime.files
    )
    return replace(runtime, files=files)


def _unchecked(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _unchecked(value) for key, value in config.items() if key != "match_typed_subject_alt_names"
        }
    return [_unchecked(value) for value in config] if isinstance(config, list) else config
