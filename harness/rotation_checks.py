"""What must hold of certificates that change: in a lab file, in the step `rotate`, and where they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness import lookup
from harness.lookup import nearest
from harness.route_checks import GATEWAYS

if TYPE_CHECKING:
    from harness.lab_checks import Found
    from harness.lab_model import Lab
    from harness.scenario_model import Step

AUTHORITY = "ca"
"""What a step calls the mesh's authority."""

SIDECAR = "sidecar"

MOST_WATCHING = 60
"""Sidecars whose certificates may change in one lab: each watches two files, and a user has 128 inotify instances."""

_STATIC = "the certificates of this lab do not change; its lab file must say 'mesh.certificates.rotate'"


def check(lab: Lab) -> Found:
    """Yield why certificates cannot change in a lab: it has no mesh, or more sidecars than can watch theirs."""
    if not lab.mesh.certificates.rotate:
        return
    place = ("mesh", "certificates", "rotate")
    if lab.mesh.provider == "none":
        yield place, "certificates that change need a mesh, and 'provider' is none"
    sidecars = sum(
        max(1, len(workload.versions))
        for namespace in lab.namespaces.values()
        for workload in namespace.workloads.values()
        if (namespace.inject if workload.inject is None else workload.inject)
    )
    if sidecars > MOST_WATCHING:
        each = "would watch two files each, and a user has 128 watches (inotify instances)"
        yield place, f"{sidecars} sidecars {each}; at most {MOST_WATCHING} can"


def check_rotation(step: Step, lab: Lab, pods: Sequence[str]) -> Found:
    """Yield what is wrong with a step `rotate`, each with its place below it; `pods` are there by then."""
    name = step.rotate or ""
    without = set(_without(lab))
    holders = [pod for pod in pods if pod not in without]
    known = [AUTHORITY, *rotating(lab), *holders]
    if not lab.mesh.certificates.rotate:
        yield ("rotate",), _STATIC
    elif name in without or (name in lab.outside and name not in known):
        yield ("rotate",), f"{name!r} has no certificate of the mesh that could be replaced"
    elif name not in known:
        yield ("rotate",), f"unknown pod or node {name!r}; {nearest(name, known)}"
    if step.keep is not None and name != AUTHORITY:
        yield ("keep",), f"'keep' goes with 'rotate: {AUTHORITY}' only"
    for pod in step.keep or ():
        if pod not in holders:
            yield ("keep",), f"{pod!r} is no pod with a certificate of the mesh; {nearest(pod, holders)}"


def reader(hop: str, lab: Lab) -> str | None:
    """Say why the certificate that a hop saw cannot be known; None if it can."""
    readers = [SIDECAR, *rotating(lab)]
    if hop not in readers:
        return f"{hop!r} logs no certificates; {nearest(hop, readers)}"
    return None if lab.mesh.certificates.rotate else _STATIC


def rotating(lab: Lab) -> Iterator[str]:
    """Yield the nodes outside whose kind replaces its certificates while it runs, and logs those of its clients."""
    for name, spec in lab.outside.items():
        if getattr(lookup.find("nodes", spec.kind), "ROTATES", False):
            yield name


def _without(lab: Lab) -> Iterator[str]:
    """Yield the pods that ask for no certificate of the mesh (harness/nodes/workload.py)."""
    for name, namespace in lab.namespaces.items():
        for workload, spec in namespace.workloads.items():
            injected = namespace.inject if spec.inject is None else spec.inject
            own = spec.certificate
            proxied = injected or spec.runs in GATEWAYS
            if not proxied and own.identity is None and own.issuer == "mesh":
                yield from (f"{name}/{workload}-{version}" for version in spec.versions)
                if not spec.versions:
                    yield f"{name}/{workload}"
