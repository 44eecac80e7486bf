"""A lab of one's own: `egresslab init` and `generate` write a lab and a scenario file that hold as they are."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click
from pydantic import TypeAdapter, ValidationError

from harness import generated, scalars, shipped
from harness.errors import InputError
from harness.lab_words import Name

if TYPE_CHECKING:
    from pathlib import Path

SCENARIO_FILE = "scenarios.yaml"

LAB = """\
# Two tenants want to reach a web site outside the cluster, and only one of them may. The egress proxy knows
# them by their certificates; the firewall knows only the address from which the proxy lets the shop out.
lab: NAME
title: Two tenants, one way out
networks: {nodes: {cidr: 172.20.0.0/24}, dmz: {cidr: 10.4.0.0/24}, internet: {cidr: 198.51.100.0/24}}
cluster: {nodes: [node-1], pools: {default: {cidr: 10.53.0.0/16}}, services_cidr: 10.235.0.0/16}
mesh: {provider: builtin}
namespaces:
  shop: {inject: true, workloads: {client: {runs: client}}}
  other: {inject: true, workloads: {client: {runs: client}}}
services:     # http://exit.shop in a pod: its sidecar goes to the proxy by mutual TLS, and checks who answers
  exit: {namespace: shop, port: 80, endpoints: [proxy:exit], tls: mutual,
         server_identity: spiffe://cluster.local/proxy}
outside:
  proxy:
    kind: egress-proxy
    on: [nodes, dmz]
    identity: spiffe://cluster.local/proxy
    virtual_servers:
      exit: {listen: 10.4.0.10:443, policy: shop-only, forward_to: www.example.com:80, snat: {pool: shop}}
    policies: {shop-only: [{permit: {spiffe_prefix: spiffe://cluster.local/ns/shop/}}]}
    snat_pools: {shop: [10.4.0.20]}
  firewall:   # what no rule allows is dropped
    kind: firewall
    on: [dmz, internet]
    rules: [{name: shop-to-site, from: snat/shop, to: www.example.com, port: 80, allow: true}]
  www.example.com: {kind: website, on: [internet]}
"""

SCENARIOS = """\
lab: lab.yaml
scenarios:
  - name: the shop reaches the site from its own address
    from: shop/client
    run: curl -sS http://exit.shop
    expect:
      allowed:
        path: [sidecar, proxy, firewall, www.example.com]
        identity: {at: proxy, is: spiffe://cluster.local/ns/shop/sa/default}
        source: {at: www.example.com, is: snat/shop}

  - name: another tenant is reset by the proxy
    from: other/client
    run: curl -sS http://exit.shop
    control: the shop reaches the site from its own address
    expect:
      rejected: {at: proxy, by: shop-only, unseen_by: [firewall, www.example.com]}

  - name: nobody goes round the proxy
    from: [shop/client, other/client]
    to: http://www.example.com
    bypass: sidecar
    control: the shop reaches the site from its own address
    expect:
      dropped: {at: firewall, by: default, source: {is: node}, unseen_by: [www.example.com]}
"""


def write_starter(folder: Path) -> None:
    """Write lab.yaml and scenarios.yaml into a folder, called as the folder is, and say what to do next.

    Raises InputError when the folder's name cannot be a lab's, or a file is there or cannot be written.
    """
    _write(folder, LAB, SCENARIOS)


def write_generated(folder: Path, size: generated.Size) -> None:
    """Write a lab of a given size and its scenarios into a folder, called as the folder is.

    Raises InputError as `write_starter`, and for a size that no lab can have.
    """
    faults = tuple(size.faults())
    if faults:
        raise InputError(*faults)
    _write(folder, generated.lab_text(size), generated.scenario_text(size))


def _write(folder: Path, lab: str, scenarios: str) -> None:
    files = {
        folder / shipped.LAB_FILE: lab.replace("NAME", _lab_name(folder.resolve().name)),
        folder / SCENARIO_FILE: scenarios,
    }
    taken = [f"{path} is there already; nothing is overwritten" for path in files if path.exists()]
    if taken:
        raise InputError(*taken)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            click.echo(f"wrote {path}")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error
    click.echo(f"next: egresslab test {shlex.quote(str(folder))}")


def _lab_name(name: str) -> str:
    """Return a folder's name as a lab's, in the way YAML reads it back as text."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"the lab would be called as its folder, and {reason}") from None
    if name in shipped.shipped_labs():
        raise InputError(f"{name!r} is a shipped lab; choose another folder name")
    return name if isinstance(scalars.resolved(name), str) else json.dumps(name)
