"""The lab file: what exists. Frozen and validated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from harness import lab_checks, source
from harness.egress_model import Way
from harness.entry import Entry
from harness.errors import InputError
from harness.lab_model import (
    SERVING,
    Attachment,
    Attachments,
    Authority,
    Bfd,
    Bgp,
    Certificate,
    Cluster,
    ClusterNode,
    Database,
    Destination,
    EgressGateway,
    Lab,
    Mesh,
    Mtls,
    MtlsPolicy,
    Namespace,
    Network,
    Outside,
    Peer,
    Route,
    Service,
    Workload,
    outside_kinds,
)
from harness.lab_words import (
    Address,
    Addresses,
    Cidr,
    Flag,
    Form,
    Label,
    Labels,
    Line,
    Lines,
    Name,
    Names,
    Port,
    Ports,
    SpiffeId,
    Word,
)
from harness.labels import NAMESPACE_NAME
from harness.pool_model import Pool
from harness.route_checks import GATEWAY, GATEWAYS
from harness.validation import examine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MOST_COMPLAINTS",
    "SERVING",
    "Address",
    "Addresses",
    "Attachment",
    "Attachments",
    "Authority",
    "Bfd",
    "Bgp",
    "Certificate",
    "Cidr",
    "Cluster",
    "ClusterNode",
    "Database",
    "Destination",
    "EgressGateway",
    "Entry",
    "Flag",
    "Form",
    "Lab",
    "Label",
    "Labels",
    "Line",
    "Lines",
    "Mesh",
    "Mtls",
    "MtlsPolicy",
    "Name",
    "Names",
    "Namespace",
    "Network",
    "Outside",
    "Peer",
    "Pod",
    "Pool",
    "Port",
    "Ports",
    "Route",
    "Service",
    "SpiffeId",
    "Way",
    "Word",
    "Workload",
    "load_lab",
    "namespace_labels",
    "outside_kinds",
    "parse_lab",
    "pod_host",
    "pods",
    "services",
]

MOST_COMPLAINTS = 100
"""About one file, beside those about single keys; a file of thousands would take minutes to explain."""


@dataclass(frozen=True)
class Pod:
    """One pod; `name` is `namespace/workload`, or `namespace/workload-version` where there are versions."""

    name: str
    namespace: str
    workload: str
    version: str | None
    spec: Workload
    injected: bool
    service_account: str

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels: those of its workload; of one with versions also `version`, unless the workload says another."""
        return ({"version": self.version} if self.version else {}) | self.spec.labels


def namespace_labels(lab: Lab, namespace: str) -> Mapping[str, str]:
    """Return a namespace's labels: its own, and its name, which Kubernetes adds to each."""
    declared = lab.namespaces[namespace].labels if namespace in lab.namespaces else {}
    return {**declared, NAMESPACE_NAME: namespace}


def pods(lab: Lab) -> tuple[Pod, ...]:
    """Return the pods of a lab's workloads, in the order of the file; a gateway's has no sidecar, being an Envoy."""
    found: list[Pod] = []
    for namespace, tenant in lab.namespaces.items():
        for workload, spec in tenant.workloads.items():
            injected = tenant.inject if spec.inject is None else spec.inject
            injected = injected and spec.runs not in GATEWAYS
            for version in spec.versions or (None,):
                name = f"{namespace}/{workload}" if version is None else f"{namespace}/{workload}-{version}"
                found.append(Pod(name, namespace, workload, version, spec, injected, spec.service_account))
    return tuple(found)


def services(lab: Lab) -> dict[str, Service]:
    """Return services by `namespace/name`: the declared ones, then one for each server and way in without."""
    found = {f"{service.namespace}/{name}": service for name, service in lab.services.items()}
    for namespace, tenant in lab.namespaces.items():
        for workload, spec in tenant.workloads.items():
            if spec.runs in (*SERVING, GATEWAY) and spec.port is not None:
                automatic = Service(namespace=namespace, port=spec.port, selector=workload)
                found.setdefault(f"{namespace}/{workload}", automatic)
    return found


def pod_host(pod: str) -> str:
    """Return the name by which nodes outside know a pod (`namespace/name`)."""
    namespace, _, name = pod.partition("/")
    return f"{name}.{namespace}.pod"


def load_lab(path: Path) -> Lab:
    """Read a lab file.

    Raises InputError with every problem of the file.
    """
    return parse_lab(source.read(path))


def parse_lab(document: source.Document) -> Lab:
    """Return the lab that a document describes, checked key by key and as a whole.

    Raises InputError with every problem of the file.
    """
    found = examine(document, Lab)
    problems = set(found.problems)
    if found.instance is not None:
        for place, message in islice(lab_checks.check(found.instance), MOST_COMPLAINTS):
            loc = found.original(place)
            if not found.touched(loc, message):
                problems.add(document.problem(loc, message))
    if problems or found.instance is None:
        raise InputError(*sorted(problems))
    return found.instance
