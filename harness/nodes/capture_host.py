"""A capture host: where copies of what passes pods' ports arrive, each wrapped in a tunnel, as from a port mirror.

NSX calls this a port mirroring session; its mirrors go by Geneve or GRE. Here the pod's node copies each frame of the
pod's port (tc-mirred(8)) into a tunnel whose other end is this host: VXLAN (RFC 7348), or Geneve (RFC 8926).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from harness.identity import Certificates
from harness.lab import Entry, Lab, Line, Name, Outside, pods
from harness.lookup import nearest
from harness.overlay_checks import OVERLAY_VNI
from harness.plan import Bindings, Node, Plan, Runtime
from harness.plan import Mirror as PlannedMirror

FORWARDS = False
_LAST_VNI = (1 << 24) - 1


class Mirror(Entry):
    """A pod whose port is mirrored, and the VNI by which its frames are told from those of other mirrors.

    `fallback` takes the place of a `tunnel` that the kernel does not have.
    """

    pod: Line
    vni: Annotated[int, Field(ge=1, le=_LAST_VNI, strict=True)]
    tunnel: Literal["vxlan", "geneve"] = "vxlan"
    fallback: Literal["vxlan"] | None = None


class Spec(Outside):
    """A capture host in a lab file."""

    kind: Literal["capture-host"]
    mirrors: Annotated[dict[Name, Mirror], Field(min_length=1)]


def taps(spec: Spec) -> tuple[str, ...]:
    """Return the taps that this kind has besides those of its networks: what comes out of each mirror's tunnel."""
    return tuple(spec.mirrors)


def check(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with this node in its lab, each with its place below `outside.<name>`."""
    every = [pod.name for pod in pods(lab)]
    network = lab.cluster.network if lab.cluster else None
    if network is not None and network not in spec.on:
        yield ("on",), f"mirrors come from the cluster's nodes, so it must be on their network, {network!r}"
    taken = {OVERLAY_VNI: "Calico's overlay"}
    for host, other in lab.outside.items():
        for mirror, one in other.mirrors.items() if isinstance(other, Spec) else ():
            if host == name and one.vni in taken:
                place = ("mirrors", mirror, "vni")
                yield place, f"VNI {one.vni} is that of {taken[one.vni]} already"
            taken.setdefault(one.vni, f"mirror {mirror!r} of {host!r}")
    for mirror, one in spec.mirrors.items():
        if one.pod not in every:
            yield ("mirrors", mirror, "pod"), f"unknown pod {one.pod!r}; {nearest(one.pod, every)}"
        if one.fallback is not None and one.tunnel != "geneve":
            yield ("mirrors", mirror, "fallback"), "a fallback is for a tunnel that kernels may lack: geneve"
        if mirror in lab.networks:
            clash = f"{mirror!r} is a network; a tap is called either {name}.NETWORK or {name}.MIRROR"
            yield ("mirrors", mirror), clash


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001 - every kind's form
    """Return its mirrors, and nothing that runs: its interfaces take what comes, and its tap keeps it."""
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no capture host")
    return Runtime(
        mirrors=tuple(
            PlannedMirror(name, one.pod, one.vni, one.tunnel) for name, one in node.spec.mirrors.items()
        )
    )
