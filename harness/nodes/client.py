"""A client outside the cluster: a machine in which commands are run and from which probes are sent."""

from __future__ import annotations

from typing import Literal

from harness.identity import Certificates
from harness.lab import Outside
from harness.plan import Bindings, Node, Plan, Runtime

FORWARDS = False
SENDS = True
"""Scenarios may say `from` of such a node, though it is no pod."""


class Spec(Outside):
    """A client in a lab file; it has nothing but its networks."""

    kind: Literal["client"]


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return nothing that runs: it waits for a command."""
    return Runtime()
