"""A router: it forwards between its networks, as the kernel's routes say, and refuses what it has no route for."""

from __future__ import annotations

from typing import Literal

from harness import bird
from harness.evidence import UNREACHABLE
from harness.identity import Certificates
from harness.lab import Outside
from harness.plan import Bindings, Node, Plan, Runtime

FORWARDS = True
FORWARDS_IPV6 = True
SENDS = True
"""Scenarios may say `from` of it: it is a machine from which one pings."""


class Spec(Outside):
    """A router in a lab file; `cluster.bgp.peers` says whether it learns routes by BGP."""

    kind: Literal["router"]


def deciders(spec: Spec) -> tuple[str, ...]:  # noqa: ARG001 - every kind's form
    """Return the names that a scenario may give as `by` for this node: why it could not forward."""
    return tuple(dict.fromkeys(UNREACHABLE.values()))


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return its BIRD, if it is a peer of the cluster's nodes."""
    return Runtime(sysctls=(("net.ipv4.ip_forward", "1"),)).merged(bird.of_peer(node, plan, bindings))
