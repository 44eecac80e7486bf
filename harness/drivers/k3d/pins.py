"""The pinned versions of what a cluster of k3d is made of: k3d/versions.toml, with what a machine sets otherwise.

EGRESSLAB_CALICO names another manifest, by URL or path; EGRESSLAB_CALICO_SHA256 its checksum.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Pins:
    """Versions, images and where Calico's manifest is; `calico_sha256` empty where a path is taken as it is."""

    k3d: str
    k3s: str
    pause: str
    calico: str
    calico_manifest: str
    calico_sha256: str
    calico_images: tuple[str, ...]
    calico_group: str
    iptables: str
    istio: str

    @property
    def images(self) -> tuple[str, ...]:
        """The images of a cluster's nodes and of what Kubernetes and Calico start there."""
        return (self.k3s, self.pause, *self.calico_images)


def pins(environment: Mapping[str, str] = os.environ) -> Pins:
    """Return the pins; raises KeyError or OSError where the file was damaged."""
    from harness.drivers.k3d.image import versions  # noqa: PLC0415 - half of the driver

    found = versions()["cluster"]
    own = environment.get("EGRESSLAB_CALICO", "")
    return Pins(
        k3d=found["k3d"],
        k3s=found["k3s"],
        pause=found["pause"],
        calico=found["calico"],
        calico_manifest=own or found["calico_manifest"],
        calico_sha256=environment.get("EGRESSLAB_CALICO_SHA256", "" if own else found["calico_sha256"]),
        calico_images=tuple(found["calico_images"]),
        calico_group=environment.get("EGRESSLAB_CALICO_GROUP", found["calico_group"]),
        iptables=environment.get("EGRESSLAB_IPTABLES", found["iptables"]),
        istio=found["istio"],
    )
