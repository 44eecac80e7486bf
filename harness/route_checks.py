"""What must hold of a lab's ways in: its ingress gateways, and the routes that lead through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.lab_model import Destination, Lab, Workload

GATEWAY = "ingress-gateway"
"""What a workload `runs` that is a way into the cluster."""

GATEWAYS = (GATEWAY, "egress-gateway")
"""What a workload `runs` that is an Envoy itself: it has the mesh's certificate, no sidecar, and no application."""

_WHOLE = 100
_Found = Iterator[tuple[tuple[str | int, ...], str]]


def check(lab: Lab) -> _Found:
    """Yield everything that is wrong with gateways and routes."""
    yield from _gateways(lab)
    hosts: dict[str, str] = {}
    for name, route in lab.routes.items():
        place = ("routes", name)
        known = list(gateways(lab))
        if route.gateway not in known:
            yield (
                (*place, "gateway"),
                f"unknown ingress gateway {route.gateway!r}; {nearest(route.gateway, known)}",
            )
        for index, host in enumerate(route.hosts):
            if host in lab.outside:
                yield (*place, "hosts", index), f"{host!r} is an outside node; choose another name"
            elif host in hosts:
                yield (*place, "hosts", index), f"{host!r} is a host of route {hosts[host]!r} already"
            hosts.setdefault(host, name)
        total = sum(one.weight for one in route.to)
        if total != _WHOLE:
            yield (*place, "to"), f"the weights of route {name!r} sum to {total}; they must sum to 100"
        for index, one in enumerate(route.to):
            for below, message in _destination(one, lab):
                yield (*place, "to", index, *below), message
            if (one.workload, one.version) in [(other.workload, other.version) for other in route.to[:index]]:
                yield (*place, "to", index), "this destination is written twice"


def gateways(lab: Lab) -> dict[str, Workload]:
    """Return the lab's ingress gateways by the name of their pod."""
    return {
        f"{namespace}/{name}": workload
        for namespace, tenant in lab.namespaces.items()
        for name, workload in tenant.workloads.items()
        if workload.runs == GATEWAY
    }


def name_of(destination: Destination) -> str:
    """Return the name of a destination: `namespace/workload`, with a version its pod's name."""
    return "-".join(filter(None, (destination.workload, destination.version)))


def _gateways(lab: Lab) -> _Found:
    taken: dict[tuple[str, int], str] = {}
    for name, workload in gateways(lab).items():
        namespace, _, own = name.partition("/")
        place = ("namespaces", namespace, "workloads", own)
        if lab.mesh.provider == "none":
            yield place, "an ingress gateway needs a mesh, and 'provider' is none"
        if workload.versions:
            yield (*place, "versions"), "an ingress gateway has no versions"
        if workload.inject:
            yield (*place, "inject"), "an ingress gateway is an Envoy itself, and gets no sidecar"
        if workload.node is None:
            yield (
                place,
                "an ingress gateway needs a 'node': from outside it is reached at that node's address",
            )
        elif workload.port is not None:
            first = taken.setdefault((workload.node, workload.port), name)
            if first != name:
                yield (
                    (*place, "port"),
                    f"port {workload.port} of {workload.node!r} leads to {first!r} already",
                )


def _destination(one: Destination, lab: Lab) -> _Found:
    namespace, _, name = one.workload.partition("/")
    known = [
        f"{tenant}/{workload}"
        for tenant, content in lab.namespaces.items()
        for workload, spec in content.workloads.items()
        if spec.runs == "http"
    ]
    if one.workload not in known:
        yield ("workload",), f"unknown http workload {one.workload!r}; {nearest(one.workload, known)}"
        return
    versions = list(lab.namespaces[namespace].workloads[name].versions)
    if one.version is not None and one.version not in versions:
        yield (
            ("version",),
            f"unknown version {one.version!r} of {one.workload!r}; {nearest(one.version, versions)}",
        )
