"""An egress gateway of the mesh: an Envoy in a pod of its own, reached by mutual TLS, which goes on to one target.

What Istio does with a Gateway of mode ISTIO_MUTUAL and a VirtualService: the sidecars' TLS ends here, and the
connection goes on as it is, from the pod's address, behind its node's. Whoever has a certificate of the mesh passes,
unless an AuthorizationPolicy (`allow`) says who (Istio, tasks "Egress Gateways" and "Authorization").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness import lookup
from harness.lab import Workload
from harness.proxy import CLIENT_CERTIFICATE, VirtualServer, authorization, mesh_envoy

if TYPE_CHECKING:
    from harness.evidence import Sighting
    from harness.identity import Certificates
    from harness.plan import Bindings, Node, Plan, Runtime

FORWARDS = False
_SERVER = "egress"


def deciders(spec: Workload) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this pod."""
    policy, _ = authorization(spec.egress.allow if spec.egress else None)
    return (policy, CLIENT_CERTIFICATE)


def listeners(node: Node, bindings: Bindings) -> tuple[str, ...]:
    """Return where it listens, as `ip:port`."""
    return (f"{bindings.pods[node.name]}:{_spec(node).port}",)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return Envoy with one listener, which decides when the handshake is done, before it dials."""
    spec = _spec(node)
    if spec.egress is None:
        raise TypeError(f"{node.name} has nowhere to go on to")
    target, _, port = spec.egress.forward_to.rpartition(":")
    policy, rules = authorization(spec.egress.allow)
    server = VirtualServer(
        name=_SERVER,
        listen=listeners(node, bindings)[0],
        leaf=certificates.leaves[node.name],
        client_certificate_required=True,
        policy=policy,
        rules=rules,
        forward_to=f"{bindings.address(plan.node(target))}:{port}",
        bind=None,
    )
    return mesh_envoy(node.name, server, plan, bindings, certificates)


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield what Envoy says about each connection, with the 5-tuples of both its sides."""
    found: Iterator[Sighting] = lookup.find("engines", "envoy").read_log(node.name, program, lines)
    yield from found


def _spec(node: Node) -> Workload:
    if not isinstance(node.spec, Workload):
        raise TypeError(f"{node.name} is no workload")
    return node.spec
