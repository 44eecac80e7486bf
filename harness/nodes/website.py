"""A web site on the internet: HTTPS with a certificate of a public authority of the lab, and plain HTTP beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from harness.dual_stack import EVERY_ADDRESS, is_dual
from harness.evidence import Sighting
from harness.identity import Certificates, Request
from harness.lab import Outside
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime
from harness.plan import File as NodeFile
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False


class Spec(Outside):
    """A web site in a lab file; its name is its host name."""

    kind: Literal["website"]
    tls: Literal["public", "none"] = "public"


def requests(node: Node, plan: Plan) -> tuple[Request, ...]:  # noqa: ARG001 - every kind's form
    """Ask the lab's public authority for the site's certificate."""
    if not isinstance(node.spec, Spec) or node.spec.tls == "none":
        return ()
    return (Request(node.name, "public", dns=(node.name,)),)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return the web server: port 80, and 443 where the site has a certificate."""
    folder = bindings.folder(node.name)
    every = EVERY_ADDRESS[: 1 + is_dual(plan.lab)]
    listen: list[dict[str, str]] = [{"address": f"{one}:80"} for one in every]
    files = []
    leaf = certificates.leaves.get(node.name)
    if leaf is not None:
        files = [NodeFile("site.pem", leaf.chain), NodeFile("site.key", leaf.key, 0o600)]
        tls = {"certificate": f"{folder}/site.pem", "key": f"{folder}/site.key"}
        if key_log := bindings.key_log(node.name):
            tls["keylog"] = key_log
        listen += [{"address": f"{one}:443", **tls} for one in every]
    files.append(NodeFile("website.json", json.dumps({"name": node.name, "listen": listen})))
    argv = (*bindings.python, f"{bindings.directory}/programs/website.py", f"{folder}/website.json")
    return Runtime(programs=(Program("website", argv, Ready("log", '"ready"')),), files=tuple(files))


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001
    """Yield the requests the site answered."""
    for event in json_lines(lines):
        if event.get("event") == "request":
            facts = facts_of(event, ("method", "path", "host", "status", "token"))
            flow = tcp(event.get("peer"), event.get("local"))
            yield Sighting(node.name, "log", "request", event["time"], flow, None, facts)
