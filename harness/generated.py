"""A lab of any size, as files: tenants' pods on many nodes, a firewall that tells them apart, a matrix of flows.

The text is what somebody would write by hand who wanted such a lab, so that it can be changed from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TENANTS = 50
_POOL_BITS, _SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 26, 20
_FIRST_PORT = 9000
_FEW = 25
"""Pods that send, if nothing else is said."""

_HEAD = """\
# {pods} pods of {tenants} tenants on {nodes} nodes, as `egresslab generate` wrote it. Each tenant has a pool of
# addresses, by which the firewall knows it, and one site outside that it may reach and nobody else. The nodes
# tell the router by BGP where pods are. `probe` pods are those that the scenarios send from.
lab: NAME
title: {pods} pods of {tenants} tenants on {nodes} nodes
networks:
  nodes:    {{cidr: 172.19.0.0/16}}
  transit:  {{cidr: 10.4.0.0/24}}
  internet: {{cidr: 198.51.100.0/24}}
cluster:
  nodes: [{node_names}]
  pools:
{pools}
  services_cidr: 10.235.0.0/16
  bgp: {{asn: 64512, mesh: true, peers: {{edge: {{node: edge}}}}}}
"""

_OUTSIDE = """\
outside:
  edge: {kind: router, on: [nodes, transit]}
  firewall:   # what no rule allows is dropped
    kind: firewall
    on: [transit, internet]
    rules:
"""

_SCENARIOS_HEAD = """\
# {flows} flows: from {probes} pods to {targets} places outside, of which each tenant may reach its own. A scenario
# of many cases is one line of the table that a run prints.
lab: lab.yaml
scenarios:
"""


@dataclass(frozen=True)
class Size:
    """How large a lab is: `probes` of its pods send, to so many places outside (`targets`); tenants share both."""

    nodes: int
    pods: int
    tenants: int
    probes: int
    targets: int

    @staticmethod
    def of(
        nodes: int, pods: int, tenants: int, probes: int | None = None, targets: int | None = None
    ) -> Size:
        """Return a size in which what is not said is small."""
        few = min(pods, max(tenants, _FEW))
        return Size(
            nodes, pods, tenants, few if probes is None else probes, tenants if targets is None else targets
        )

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with a size, each in one sentence."""
        if not 1 <= self.tenants <= MOST_TENANTS:
            yield f"--tenants {self.tenants}: a lab has 1 to {MOST_TENANTS} tenants"
            return
        if not 1 <= self.nodes <= 1 << _POOL_BITS - (32 - _SMALLEST_BLOCK):
            yield f"--nodes {self.nodes}: a lab has 1 to {1 << _POOL_BITS - (32 - _SMALLEST_BLOCK)} nodes"
            return
        if self.pods < self.tenants:
            yield f"--pods {self.pods}: each of {self.tenants} tenants needs a pod"
        elif self.block < _LARGEST_BLOCK or self.nodes > 1 << self.block - (32 - _POOL_BITS):
            yield f"--pods {self.pods}: too many for a tenant's pool on {self.nodes} nodes (65536 addresses)"
        if not self.tenants <= self.probes <= self.pods:
            yield f"--probes {self.probes}: from one for each tenant ({self.tenants}) to all pods ({self.pods})"
        if not self.tenants <= self.targets <= self.tenants * 100:
            least, most = self.tenants, self.tenants * 100
            yield f"--targets {self.targets}: from one for each tenant ({least}) to a hundred ({most})"

    @property
    def block(self) -> int:
        """The prefix length of a node's block in a tenant's pool: for all pods of a tenant that a node may get."""
        a_tenants = -(-self.pods // self.tenants)
        return min(_SMALLEST_BLOCK, 32 - (a_tenants // self.nodes + 3).bit_length())

    def share(self, of: int, tenant: int) -> int:
        """Return a tenant's share of so many things; tenants are counted from 1, the first have one more."""
        return of // self.tenants + (tenant <= of % self.tenants)


def lab_text(size: Size) -> str:
    """Return a lab file whose name is written NAME."""
    tenants = range(1, size.tenants + 1)
    nodes = ", ".join(f"node-{number}" for number in range(1, size.nodes + 1))
    pools = "\n".join(
        f"    tenant-{tenant}: {{cidr: 10.{100 + tenant}.0.0/{_POOL_BITS}, block: {size.block}, nat_outgoing: false,"
        f" namespaces: [tenant-{tenant}]}}"
        for tenant in tenants
    )
    head = _HEAD.format(pods=size.pods, tenants=size.tenants, nodes=size.nodes, node_names=nodes, pools=pools)
    return head + "namespaces:\n" + "".join(_workloads(size)) + _OUTSIDE + "".join(_outside(size))


def _workloads(size: Size) -> Iterator[str]:
    """Yield each tenant's pods, dealt out to the nodes one after the other."""
    placed = 0
    for tenant in range(1, size.tenants + 1):
        probes = size.share(size.probes, tenant)
        yield f"  tenant-{tenant}:\n    workloads:\n"
        for number in range(1, size.share(size.pods, tenant) + 1):
            name = f"probe-{number}" if number <= probes else f"pod-{number}"
            yield f"      {name}: {{runs: client, node: node-{placed % size.nodes + 1}}}\n"
            placed += 1


def _outside(size: Size) -> Iterator[str]:
    """Yield the firewall's rules and the sites."""
    for tenant in range(1, size.tenants + 1):
        yield (
            f"      - {{name: tenant-{tenant}, from: pool/tenant-{tenant}, to: site-{tenant}, allow: true}}\n"
        )
    for tenant in range(1, size.tenants + 1):
        first, *more = _ports(size, tenant)
        further = f", more_ports: [{', '.join(map(str, more))}]" if more else ""
        yield f"  site-{tenant}: {{kind: echo, on: [internet], port: {first}{further}}}\n"


def _ports(size: Size, tenant: int) -> range:
    return range(_FIRST_PORT, _FIRST_PORT + size.share(size.targets, tenant))


def scenario_text(size: Size) -> str:
    """Return the scenario file of `lab_text`: who may reach which site, and that nobody else does."""
    flows = size.probes * size.targets
    head = _SCENARIOS_HEAD.format(flows=flows, probes=size.probes, targets=size.targets)
    return head + "\n".join(_scenarios(size))


def _scenarios(size: Size) -> Iterator[str]:
    for tenant in range(1, size.tenants + 1):
        site, own = f"site-{tenant}", f"tenant-{tenant} reaches its site from its own addresses"
        to = ", ".join(f"tcp://{site}:{port}" for port in _ports(size, tenant))
        yield f"""\
  - name: {own}
    matrix:
      from: [tenant-{tenant}/probe-*]
      to: [{to}]
    expect:
      allowed:
        path: [node, edge, firewall, {site}]
        source: {{at: {site}, is: pod}}
"""
        others = ", ".join(
            f"tenant-{other}/probe-*" for other in range(1, size.tenants + 1) if other != tenant
        )
        if others:
            yield f"""\
  - name: nobody else reaches {site}
    matrix:
      from: [{others}]
      to: [{to}]
    control: {own}
    expect:
      dropped: {{at: firewall, by: default, source: {{is: pod}}, unseen_by: [{site}]}}
"""
