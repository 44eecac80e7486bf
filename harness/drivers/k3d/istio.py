"""The mesh of a lab as Istio's resources, where the lab file says `provider: istio`. Pure.

Istio itself is not installed here: a cluster must have it, in sidecar mode (in ambient mode a pod's own identity is not
shown outside the mesh), and with the secret `cacerts` in place before istiod starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.drivers.k3d.objects import WORKLOAD, Object, Settings, made, secret
from harness.plan import CLUSTER_DOMAIN
from harness.route_checks import GATEWAY

if TYPE_CHECKING:
    from harness.identity import Certificates
    from harness.plan import Node, Plan

ROOT = "istio-system"
"""Istio's root namespace: what stands there holds for the whole mesh."""
_MODES = {"strict": "STRICT", "permissive": "PERMISSIVE", "disable": "DISABLE"}


def is_wanted(plan: Plan) -> bool:
    """Tell whether a lab's mesh is Istio's."""
    return plan.lab.mesh.provider == "istio"


def injects(node: Node, plan: Plan) -> bool:
    """Tell whether Istio adds its proxy to a pod: those with sidecars, and gateways, which are nothing else."""
    return is_wanted(plan) and node.pod is not None and (node.pod.injected or GATEWAY in node.kinds)


def resources(plan: Plan, certificates: Certificates, settings: Settings) -> Iterator[Object]:
    """Yield the authority and the rules of a lab's mesh; nothing where it is not Istio's."""
    if not is_wanted(plan):
        return
    yield cacerts(certificates, settings)
    yield from _accepted(plan, settings)
    yield from _sent(plan, settings)
    yield from _routes(plan, settings)


def cacerts(certificates: Certificates, settings: Settings) -> Object:
    """Return the lab's own intermediate as Istio's authority (Istio, "Plug in CA Certificates")."""
    authority = certificates.authorities["mesh"]
    content = {
        "ca-cert.pem": authority.certificate,
        "ca-key.pem": authority.key,
        "root-cert.pem": authority.root,
        "cert-chain.pem": authority.certificate + authority.root,
    }
    return secret("cacerts", ROOT, {name: text.encode() for name, text in content.items()}, settings)


def _accepted(plan: Plan, settings: Settings) -> Iterator[Object]:
    """Yield what servers accept: of the whole mesh, of namespaces, of workloads."""
    policy = plan.lab.mesh.mtls
    yield _peers("default", ROOT, policy.default, settings)
    for place, mode in policy.overrides.items():
        namespace, _, workload = place.partition("/")
        yield _peers(workload or "default", namespace, mode, settings, workload)


def _peers(name: str, namespace: str, mode: str, settings: Settings, workload: str = "") -> Object:
    spec: Object = {"mtls": {"mode": _MODES[mode]}}
    if workload:
        spec["selector"] = {"matchLabels": {WORKLOAD: workload}}
    return made("PeerAuthentication", settings.istio_security, name, settings, namespace, spec=spec)


def _sent(plan: Plan, settings: Settings) -> Iterator[Object]:
    """Yield what clients send: to services that demand it, and from those that the lab file names.

    `subjectAltNames` is what the server's certificate must name (secure naming), for servers outside the mesh.
    """
    split = {(to.workload, to.version) for route in plan.lab.routes.values() for to in route.to}
    for name, service in plan.services.items():
        namespace, _, short = name.partition("/")
        versions = sorted(
            version for where, version in split if version and where == f"{namespace}/{service.selector}"
        )
        if service.tls != "mutual" and not versions:
            continue
        spec: Object = {"host": f"{short}.{namespace}.svc.{CLUSTER_DOMAIN}"}
        if service.tls == "mutual":
            tls: Object = {"mode": "ISTIO_MUTUAL"}
            if service.server_identity:
                tls["subjectAltNames"] = [service.server_identity]
            spec["trafficPolicy"] = {"tls": tls}
        if versions:
            spec["subsets"] = [{"name": version, "labels": {"version": version}} for version in versions]
        yield made("DestinationRule", settings.istio, short, settings, namespace, spec=spec)
    for place, mode in plan.lab.mesh.mtls.clients.items():
        namespace, _, workload = place.partition("/")
        spec = {
            "host": f"*.svc.{CLUSTER_DOMAIN}",
            "exportTo": ["."],
            "trafficPolicy": {"tls": {"mode": mode.upper()}},
        }
        if workload:
            spec["workloadSelector"] = {"matchLabels": {WORKLOAD: workload}}
        name = f"clients-{workload}" if workload else "clients"
        yield made("DestinationRule", settings.istio, name, settings, namespace, spec=spec)


def _routes(plan: Plan, settings: Settings) -> Iterator[Object]:
    """Yield a gateway for each of the lab's, and a virtual service for each of its routes."""
    for node in plan.of_kind(GATEWAY):
        if node.pod is None:
            continue
        server = {
            "port": {"number": node.pod.spec.port, "name": "http", "protocol": "HTTP"},
            "hosts": ["*"],
        }
        spec: Object = {"selector": {WORKLOAD: node.pod.workload}, "servers": [server]}
        yield made("Gateway", settings.istio, node.pod.workload, settings, node.pod.namespace, spec=spec)
    for name, route in plan.lab.routes.items():
        namespace = route.gateway.partition("/")[0]
        branches: list[dict[str, Any]] = []
        for to in route.to:
            there, _, workload = to.workload.partition("/")
            destination: Object = {"host": f"{workload}.{there}.svc.{CLUSTER_DOMAIN}"}
            if to.version:
                destination["subset"] = to.version
            branches.append({"destination": destination, "weight": to.weight})
        spec = {"hosts": list(route.hosts), "gateways": [route.gateway], "http": [{"route": branches}]}
        yield made("VirtualService", settings.istio, name, settings, namespace, spec=spec)
