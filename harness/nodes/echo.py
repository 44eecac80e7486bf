"""A TCP echo service that answers in capitals: a system outside the mesh that trusts whoever reaches it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from harness.evidence import Sighting
from harness.identity import Certificates
from harness.lab import Outside, Port, Ports
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime
from harness.plan import File as NodeFile
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False
_EVENTS = ("accept", "answer", "close")
_KEPT = ("conn", "bytes", "reason")


class Spec(Outside):
    """A TCP echo in a lab file."""

    kind: Literal["echo"]
    port: Port = 9000
    more_ports: Ports = ()


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001 - every kind's form
    """Return the echo program, listening on all of the node's addresses."""
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no echo")
    folder = bindings.folder(node.name)
    listen, *also = (f"0.0.0.0:{port}" for port in dict.fromkeys((node.spec.port, *node.spec.more_ports)))
    config = {"name": node.name, "listen": listen, **({"also": also} if also else {})}
    argv = (*bindings.python, f"{bindings.directory}/programs/echo.py", f"{folder}/echo.json")
    return Runtime(
        programs=(Program("echo", argv, Ready("log", '"ready"')),),
        files=(NodeFile("echo.json", json.dumps(config)),),
    )


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - every kind's form
    """Yield each connection's beginning, answers and end."""
    for event in json_lines(lines):
        if event.get("event") in _EVENTS:
            flow = tcp(event.get("peer"), event.get("local"))
            yield Sighting(
                node.name, "log", event["event"], event["time"], flow, None, facts_of(event, _KEPT)
            )
