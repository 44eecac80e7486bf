"""Mesh expansion: a host outside the cluster with an Envoy of the mesh beside the server that it runs.

What Istio does with a WorkloadEntry: Envoy has a certificate of the mesh, ends mutual TLS on the host's address, checks
who is calling (an AuthorizationPolicy, here `allow`), and goes on to the server, which listens on loopback only. The
server is a TCP echo that answers in capitals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from harness import lookup
from harness.evidence import Sighting
from harness.identity import Certificates, Request
from harness.lab import Lab, Outside, Port, SpiffeId
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime
from harness.plan import File as NodeFile
from harness.proxy import CLIENT_CERTIFICATE, VirtualServer, authorization, mesh_envoy
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False
ROTATES = True
"""Its certificate can be replaced while it runs."""

SERVER = "server"
"""The hop behind Envoy, in a scenario `NODE/server`."""

LOOPBACK = "127.0.0.1"
_EVENTS = ("accept", "answer", "close")
_KEPT = ("conn", "bytes", "reason")


class Spec(Outside):
    """A host of the mesh outside the cluster in a lab file."""

    kind: Literal["mesh-host"]
    port: Port = 9000
    identity: SpiffeId
    allow: tuple[SpiffeId, ...] | None = None


def deciders(spec: Spec) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this node."""
    policy, _ = authorization(spec.allow)
    return (policy, CLIENT_CERTIFICATE)


def check(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: ARG001 - every kind's form
    """Yield what is wrong with this node in its lab, each with its place below `outside.<name>`."""
    if lab.mesh.provider == "none":
        yield ("kind",), f"{name!r} is a host of the mesh, and 'provider' is none"


def parts(spec: Spec) -> tuple[str, ...]:  # noqa: ARG001 - every kind's form
    """Return the hops within the node that a scenario may name."""
    return (SERVER,)


def listeners(node: Node, bindings: Bindings) -> tuple[str, ...]:
    """Return where its proxy listens, as `ip:port`."""
    return (f"{bindings.address(node)}:{_spec(node).port}",)


def requests(node: Node, plan: Plan) -> tuple[Request, ...]:  # noqa: ARG001 - every kind's form
    """Ask for the host's certificate, from the mesh's intermediate."""
    return (Request(node.name, uris=(_spec(node).identity,)),)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return Envoy on the host's address, and the server on the same port of its loopback."""
    spec = _spec(node)
    policy, rules = authorization(spec.allow)
    server = VirtualServer(
        name="inbound",
        listen=listeners(node, bindings)[0],
        leaf=certificates.leaves[node.name],
        client_certificate_required=True,
        policy=policy,
        rules=rules,
        forward_to=f"{LOOPBACK}:{spec.port}",
        bind=None,
    )
    envoy = mesh_envoy(node.name, server, plan, bindings, certificates)
    config = {"name": node.name, "listen": f"{LOOPBACK}:{spec.port}"}
    argv = (
        *bindings.python,
        f"{bindings.directory}/programs/echo.py",
        f"{bindings.folder(node.name)}/echo.json",
    )
    return envoy.merged(
        Runtime(
            programs=(Program(SERVER, argv, Ready("log", '"ready"')),),
            files=(NodeFile("echo.json", json.dumps(config)),),
        )
    )


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield what Envoy says about each connection, and as of a hop of its own what the server says."""
    if program != SERVER:
        yield from lookup.find("engines", "envoy").read_log(node.name, program, lines)
        return
    place = f"{node.name}/{SERVER}"
    for event in json_lines(lines):
        if event.get("event") in _EVENTS:
            flow = tcp(event.get("peer"), event.get("local"))
            yield Sighting(place, "log", event["event"], event["time"], flow, None, facts_of(event, _KEPT))


def _spec(node: Node) -> Spec:
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no host of the mesh")
    return node.spec
