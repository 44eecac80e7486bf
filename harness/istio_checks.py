"""What a lab file may say where its mesh is Istio's, which issues its pods' certificates itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.lab_model import Lab

_OTHER = "Istio gives every pod its service account's identity; another certificate needs 'provider: builtin'"

Found = Iterator[tuple[tuple[str | int, ...], str]]


def check(lab: Lab) -> Found:
    """Yield what an Istio that is there already would not do for a lab."""
    if lab.mesh.provider != "istio":
        return
    if lab.mesh.certificates.rotate:
        yield (
            ("mesh", "certificates", "rotate"),
            "Istio issues and renews the certificates of its pods itself; 'rotate' needs 'provider: builtin'",
        )
    for namespace, tenant in lab.namespaces.items():
        for name, workload in tenant.workloads.items():
            place = ("namespaces", namespace, "workloads", name)
            wanted = workload.certificate
            if wanted.issuer != "mesh" or wanted.identity is not None:
                yield (*place, "certificate"), _OTHER
            if workload.runs == "egress-gateway":
                yield (
                    (*place, "runs"),
                    "this egress gateway is an Envoy with a certificate of the lab; it needs 'provider: builtin'",
                )
