"""A lab of two tenants before an egress proxy, as text, and what its parts come to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.drivers import fake
from harness.identity import Certificates, Leaf
from harness.lab import load_lab, parse_lab
from harness.plan import Bindings, Plan, Program, make_plan, render
from harness.scenario import Item, load_scenarios
from harness.source import parse

LAB = """\
lab: tenants
title: Two tenants
networks:
  nodes:    {cidr: 172.19.0.0/24}
  dmz:      {cidr: 10.4.0.0/24}
  internet: {cidr: 198.51.100.0/24}
cluster:
  nodes: [server-0, agent-0]
  pools: {default: {cidr: 10.53.0.0/16}}
  services_cidr: 10.235.0.0/16
  bgp: {}
mesh: {provider: builtin}
namespaces:
  red:
    inject: true
    snat: red
    workloads:
      client: {runs: client}
      shop: {runs: http, port: 9080, versions: [v1, v2]}
  blue:
    inject: true
    workloads:
      client: {runs: client}
services:
  proxy: {namespace: red, port: 3128, endpoints: [bigip:exit], tls: mutual,
          server_identity: spiffe://cluster.local/ns/red/sa/default}
outside:
  bigip:
    kind: egress-proxy
    on: {nodes: {}, dmz: {}}
    identity: spiffe://cluster.local/ns/red/sa/default
    virtual_servers:
      exit: {listen: "10.4.0.201:3128", policy: red-only, forward_to: tinyproxy:8888, snat: {pool: red}}
    policies:
      red-only: [{permit: {spiffe_prefix: spiffe://cluster.local/ns/red/}}]
    snat_pools: {red: 10.4.0.211}
  firewall:
    kind: firewall
    on: {dmz: {}, internet: {}}
    rules: [{name: proxy-out, from: snat/red, to: tinyproxy, port: 8888, allow: true}]
  tinyproxy: {kind: forward-proxy, on: {internet: {}}}
  site.example: {kind: website, on: {internet: {}}}
"""

SCENARIOS = """\
lab: lab.yaml
scenarios:
  - name: red is let out
    labels: smoke
    from: red/client
    run: curl -sSkIx proxy:3128 https://site.example
    expect:
      allowed:
        path: [sidecar, bigip, firewall, tinyproxy, site.example]
        client: {exit: 0, shows: "200 OK"}
        identity: {at: bigip, is: spiffe://cluster.local/ns/red/sa/default}
        source: {at: tinyproxy, is: snat/red}
        packets: [{at: bigip.nodes, where: tcp port 3128, are: encrypted}]
  - name: blue is reset
    from: blue/client
    run: curl -sSkIx proxy.red:3128 https://site.example
    control: red is let out
    expect:
      rejected:
        at: bigip
        by: red-only
        client: {exit: 56, shows: Connection reset by peer}
        identity: {at: bigip, is: spiffe://cluster.local/ns/blue/sa/default}
        unseen_by: [firewall, tinyproxy]
  - name: nobody goes round the proxy
    from: blue/client
    to: tcp://tinyproxy:8888
    bypass: sidecar
    control: red is let out
    expect:
      dropped: {at: firewall, by: default, source: {is: node}, unseen_by: [tinyproxy]}
"""


@dataclass(frozen=True)
class Files:
    """The lab and its scenarios as files, and the cases that they come to."""

    lab: Path
    scenarios: Path
    items: dict[str, Item]


def plan_of(text: str = LAB) -> Plan:
    """Return the plan of a lab that a text describes."""
    return make_plan(parse_lab(parse(text.encode(), "lab.yaml")))


def written(folder: Path, lab: str = LAB, scenarios: str = SCENARIOS) -> Files:
    """Write both files and return the cases by their ids."""
    lab_path, scenario_path = folder / "lab.yaml", folder / "scenarios.yaml"
    lab_path.write_text(lab, encoding="utf-8")
    scenario_path.write_text(scenarios, encoding="utf-8")
    items = load_scenarios(scenario_path, load_lab(lab_path))
    return Files(lab_path, scenario_path, {item.id: item for item in items})


@cache
def written_once(scenarios: str = SCENARIOS) -> dict[str, Item]:
    """Return the cases of a scenario file for the lab, by their ids; no file stays."""
    with TemporaryDirectory() as folder:
        return written(Path(folder), scenarios=scenarios).items


def pretended_certificates(plan: Plan) -> Certificates:
    """Return texts that name what certificate would stand there, the same in every run."""
    leaves = {
        request.name: Leaf(f"chain of {request.name}", f"key of {request.name}") for request in plan.requests
    }
    return Certificates(leaves, {issuer: f"root of {issuer}" for issuer in ("mesh", "foreign", "public")})


class Rendered:
    """A lab with every node's runtime."""

    def __init__(self, text: str = LAB) -> None:
        self.plan: Plan = plan_of(text)
        self.bindings: Bindings = fake.binding(self.plan)
        self.runtimes = render(self.plan, self.bindings, pretended_certificates(self.plan))

    def files(self, node: str) -> dict[str, str]:
        """Return a node's files."""
        return {file.path: file.content for file in self.runtimes[node].files}

    def json(self, node: str, path: str) -> Any:
        """Return what a JSON file of a node says."""
        return json.loads(self.files(node)[path])

    def program(self, node: str, name: str) -> Program:
        """Return a program of a node."""
        return next(program for program in self.runtimes[node].programs if program.name == name)
