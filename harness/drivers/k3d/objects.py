"""Kubernetes objects as plain data: what all of ours have in common, and where the API keeps each kind."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.drivers.k3d.engine import LAB, LABEL

Object = dict[str, Any]

MANAGED_BY = {"app.kubernetes.io/managed-by": LABEL}
WORKLOAD = f"{LABEL}.workload"
"""The label by which a service finds the pods of its workload."""
ON_NODE = f"{LABEL}.cluster-node"
"""The label of a cluster's node that says which of the lab's it is."""
SYSTEM = "egresslab-system"
"""The namespace of what belongs to the driver and not to the lab: agents of nodes, the route controller."""


@dataclass(frozen=True)
class Settings:
    """What objects say that is not in the lab file: its name here, the image of all containers, Calico's API group.

    `calico` is the group and version of Calico's resources: `crd.projectcalico.org/v1` as the manifest stores them, or
    `projectcalico.org/v3` where Calico's API server runs. `istio` is the version of Istio's networking resources.
    """

    lab: str
    image: str
    calico: str = "crd.projectcalico.org/v1"
    istio: str = "networking.istio.io/v1"
    istio_security: str = "security.istio.io/v1"

    @property
    def labels(self) -> dict[str, str]:
        """What every object of the lab carries; `down` removes by the first."""
        return {LAB: self.lab, **MANAGED_BY}


def made(
    kind: str, api: str, name: str, settings: Settings, namespace: str | None = None, **rest: Any
) -> Object:
    """Return an object with its metadata; `labels` and `annotations` among `rest` go there too."""
    labels: Mapping[str, str] = rest.pop("labels", {})
    annotations: Mapping[str, str] = rest.pop("annotations", {})
    metadata: Object = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata["labels"] = {**labels, **settings.labels}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def secret(name: str, namespace: str, content: Mapping[str, bytes], settings: Settings) -> Object:
    """Return a secret."""
    data = {key: base64.b64encode(value).decode() for key, value in content.items()}
    return made("Secret", "v1", name, settings, namespace, type="Opaque", data=data)


_PLURALS = {"NetworkPolicy": "networkpolicies", "PeerAuthentication": "peerauthentications"}
_PLURALS |= {"ServiceEntry": "serviceentries", "PriorityClass": "priorityclasses"}
CLUSTER_WIDE = {
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "IPPool",
    "BGPConfiguration",
    "BGPPeer",
    "FelixConfiguration",
    "PriorityClass",
    "Node",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
}
"""Kinds without a namespace; who may not change a cluster writes none of them."""


def plural_of(kind: str) -> str:
    """Return what the API calls the objects of a kind in its paths."""
    if kind in _PLURALS:
        return _PLURALS[kind]
    word = kind.lower()
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("s") else "s")


def collection(api: str, kind: str, namespace: str | None) -> str:
    """Return the path of the API under which the objects of a kind are."""
    root = f"/api/{api}" if "/" not in api else f"/apis/{api}"
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{plural_of(kind)}"


def path_of(found: Object) -> str:
    """Return the path of an object."""
    metadata = found["metadata"]
    namespace = None if found["kind"] in CLUSTER_WIDE else metadata.get("namespace", "default")
    return f"{collection(found['apiVersion'], found['kind'], namespace)}/{metadata['name']}"


def spoken(found: Object) -> str:
    """Return how an object is called in sentences: `Pod bookinfo/details`."""
    metadata = found["metadata"]
    within = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{found['kind']} {within}{metadata['name']}"
