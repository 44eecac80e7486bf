"""The forward proxy: tinyproxy, which tunnels with CONNECT to the ports it is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from harness.evidence import Sighting
from harness.identity import Certificates
from harness.lab import Outside, Port, Ports
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime
from harness.plan import File as NodeFile
from harness.programs.fivetuple import FiveTuple

FORWARDS = False
_STAMP = r"[A-Z]+ +[A-Za-z]+ +\d+ [\d:.]+ \[\d+\]: "
"""How tinyproxy starts each line; matched from the first character, for a request's text is the client's own."""
_CONNECT = re.compile(_STAMP + r"Connect \(file descriptor (\d+)\): (?:\S+ \[)?([0-9a-f.:]+)\]?")
_REQUEST = re.compile(_STAMP + r"Request \(file descriptor (\d+)\): (.+)")
_CLOSED = re.compile(_STAMP + r"Closed connection between local client \(fd:(\d+)\)")


class Spec(Outside):
    """A forward proxy in a lab file."""

    kind: Literal["forward-proxy"]
    port: Port = 8888
    connect_ports: Ports = (443,)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return tinyproxy in the foreground, logging to its output."""
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no forward proxy")
    lines = [
        f"Port {node.spec.port}",
        "Timeout 60",
        "MaxClients 200",
        "LogLevel Info",
        *(f"ConnectPort {port}" for port in node.spec.connect_ports),
    ]
    argv = ("tinyproxy", "-d", "-c", f"{bindings.folder(node.name)}/tinyproxy.conf")
    program = Program("tinyproxy", argv, Ready("listens", str(node.spec.port)))
    return Runtime(programs=(program,), files=(NodeFile("tinyproxy.conf", "\n".join(lines) + "\n"),))


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001
    """Yield connections, requests and ends; lines belong together by file descriptor, and name no ports."""
    opened: dict[str, tuple[int, str]] = {}
    for number, (time, line) in enumerate(lines):
        if found := _CONNECT.match(line):
            opened[found[1]] = (number, found[2])
            yield _sighting(node, "connect", time, opened[found[1]], {"line": line})
        elif (found := _REQUEST.match(line)) and found[1] in opened:
            yield _sighting(node, "request", time, opened[found[1]], {"request": found[2]})
        elif (found := _CLOSED.match(line)) and found[1] in opened:
            yield _sighting(node, "close", time, opened.pop(found[1]), {})


def _sighting(node: Node, event: str, time: int, which: tuple[int, str], facts: dict[str, str]) -> Sighting:
    number, client = which
    flow = FiveTuple(6, client, 0, "", 0)
    return Sighting(node.name, "log", event, time, flow, None, facts | {"connection": str(number)})
