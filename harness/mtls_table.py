"""How each pair of pods in a lab's mesh really talks: one flow for each, judged by what was seen of it on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from harness import lookup, shipped
from harness.attempt import observe
from harness.commands import lab_for, name_for
from harness.denial import denials, rule_of
from harness.evidence import SIDECAR, Evidence
from harness.lab import SERVING, Service, Workload, load_lab
from harness.look import table
from harness.passport import Passport
from harness.plan import Node, endpoints
from harness.run import WINDOW_SECONDS
from harness.running import Driver, Mark, RunningLab
from harness.scenario import Allowed, Expect, Item, Scenario

REFUSED, NO_EVIDENCE = "refused", "no evidence"
_CONNECT_SECONDS = 3


@dataclass(frozen=True)
class Pair:
    """A client pod and a service; `mode` is `mutual`, `plain`, `tls`, `mixed`, `refused` or `no evidence`.

    `by` names who was verified by mutual TLS, or the hop and the rule of a refusal; `seen` says what shows the mode.
    """

    client: str
    service: str
    mode: str
    by: str
    seen: str


def show_modes(lab_name: str, name: str | None, driver: Driver, *, as_json: bool) -> int:
    """Print how each client pod reaches each service of the mesh; returns the exit code.

    Uses the lab that is up by that name, or stands it up for this time. The code is 3 when something is not known,
    5 when there is no such pair, else 0.
    """
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    with lab_for(driver, lab, path, name or name_for(lab.lab, "never", driver)) as (running, _):
        found = list(pairs(running))
    if not found:
        click.echo(f"{lab.lab}: no client pod, or no pod with a sidecar that serves", err=True)
        return 5
    if as_json:
        click.echo(json.dumps([asdict(pair) for pair in found], indent=2))
    else:
        rows = [(pair.client, pair.service, pair.mode, _said(pair)) for pair in found]
        table(("FROM", "TO", "MODE", "BY"), rows)
    return 3 if any(pair.mode == NO_EVIDENCE for pair in found) else 0


def _said(pair: Pair) -> str:
    return pair.seen if pair.mode == NO_EVIDENCE else pair.by


def pairs(lab: RunningLab) -> Iterator[Pair]:
    """Send a flow from each client pod to each service of the mesh, one after the other, and yield what it showed."""
    earlier: Mark | None = None
    clients = [
        node for node in lab.plan.pods if isinstance(node.spec, Workload) and node.spec.runs == "client"
    ]
    for full, service in lab.plan.services.items():
        servers = [lab.plan.node(name) for name, _, _ in endpoints(lab.plan, lab.bindings, service)]
        if not servers or not all(_serves_in_the_mesh(server) for server in servers):
            continue
        for client in clients:
            item = _item(client, full, service, servers[0])
            with lab.window(WINDOW_SECONDS):
                ((evidence, passport),), earlier = observe(lab, [item], earlier)
            yield _judged(client.name, full, [server.name for server in servers], evidence, passport)


def _serves_in_the_mesh(node: Node) -> bool:
    return node.pod is not None and node.pod.injected and node.pod.spec.runs in SERVING


def _item(client: Node, full: str, service: Service, server: Node) -> Item:
    """Return a flow in the service's own protocol: a probe, or for a database its own client."""
    namespace, _, name = full.partition("/")
    host, words = f"{name}.{namespace}", f"{client.name} to {full}"
    run = to = None
    database = server.pod.spec.database if server.pod else None
    if database is None:
        to = f"http://{host}:{service.port}"
    else:
        user, password = next(iter(database.users.items()))
        run = (
            f"mariadb --connect-timeout={_CONNECT_SECONDS} -h {host} -P {service.port} "
            f"-u {user} '-p{password}' {database.schema_} -e 'SELECT 1'"
        )
    scenario = Scenario(name=words, from_=(client.name,), run=run, to=to, expect=Expect(allowed=Allowed()))
    return Item(id=words, scenario=scenario, source=client.name, to=to, path="", line=0)


def _judged(client: str, service: str, servers: list[str], evidence: Evidence, passport: Passport) -> Pair:
    denied = denials(passport)
    if denied:
        rule = rule_of(denied[0])
        return Pair(client, service, REFUSED, f"{denied[0].at} ({rule})", denied[0].facts.get("reason", ""))
    reached = next((hop for hop in passport.hops() if hop in servers), None)
    if reached is None:
        last = passport.hops()[-1] if passport.hops() else "nowhere"
        return Pair(client, service, NO_EVIDENCE, "", f"no server was reached; last seen at {last}")
    mode, seen = lookup.find("checks", "mtls-mode").observed(reached, evidence, passport)
    return Pair(client, service, mode or NO_EVIDENCE, _verified(reached, passport), seen)


def _verified(pod: str, passport: Passport) -> str:
    """Return whom the pod's sidecar verified the client to be."""
    seen = {sighting.facts.get("identity", "") for sighting in passport.at(f"{pod} {SIDECAR}")}
    return ", ".join(sorted(seen - {""}))
