"""NetworkPolicies on a cluster node, in nftables: at the host's end of each pod's own interface, as Felix has them.

What Kubernetes demands of them (Network Policies, "The two sorts of pod isolation"): a pod is isolated in a direction
as soon as one policy that selects it is for that direction; then only what some rule of any of these policies allows
may pass, and the answers to it. Without a policy everything may. What node and pod say to each other is not asked
about, nor what a pod says to itself. Services' addresses are translated before, as with Calico, so that rules
are for the pods behind them. A pod's other interfaces have no policy.

Each decision about a new connection is counted and logged under a policy's name, `NAMESPACE/NAME`: that of the policy
whose rule allowed it; of a denial, that of the file's first policy which isolates the pod in that direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from harness.lab import namespace_labels
from harness.plan import DNS_POD, Bindings, Plan, counter_name
from harness.pod_link import cali
from harness.policy_model import EGRESS, INGRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.lab import Lab
    from harness.plan import Node
    from harness.policy_model import Direction, NetworkPolicy, PolicyPeer, PolicyPort

NFLOG_GROUP = 5
"""The netlink log group that drivers listen to."""

_DNS_LABELS = {"k8s-app": "kube-dns"}
"""Of the pods of the cluster's DNS, as its manifests have them."""

_DIRECTIONS: tuple[tuple[Direction, str], ...] = ((EGRESS, "daddr"), (INGRESS, "saddr"))
"""Of a packet between two pods of one node first the sender's policies are asked, then the receiver's."""


@dataclass(frozen=True)
class _Pod:
    name: str
    host: str
    namespace: str
    labels: Mapping[str, str]
    address: IPv4Address


def rules_of(node: Node, plan: Plan, bindings: Bindings) -> str:
    """Return the rules of a cluster node; none where no policy isolates a pod of it."""
    everybody = tuple(_pods(plan, bindings))
    names: dict[str, None] = {}
    chains: list[str] = []
    entries: dict[Direction, list[str]] = {EGRESS: [], INGRESS: []}
    for pod in everybody:
        if pod.host != node.name:
            continue
        for direction, side in _DIRECTIONS:
            policies = _isolating(pod, direction, plan.lab)
            if not policies:
                continue
            chain = f"{direction.lower()}_{cali(pod.name)}"
            names |= dict.fromkeys(policies)
            entries[direction].append(f'"{cali(pod.name)}" : jump {chain}')
            allowed = (
                line
                for name, policy in policies.items()
                for line in _allowed(name, policy, direction, side, everybody, plan.lab)
            )
            last = f"    {_decided('drop', next(iter(policies)), direction)}"
            lines = (f"    ip {side} {pod.address} return", *(f"    {line}" for line in allowed), last)
            chains += (f"  # {pod.name}", f"  chain {chain} {{", *lines, "  }")
    if not chains:
        return ""
    maps = [
        f"    {key} vmap {{ {', '.join(entries[direction])} }}"
        for key, direction in (("iifname", EGRESS), ("oifname", INGRESS))
        if entries[direction]
    ]
    counters = [
        f"  counter {counter_name(kind, name)} {{ }}" for name in names for kind in ("rule", "denied")
    ]
    base = (
        "  chain forward { type filter hook forward priority filter;",
        "    ct state established,related accept",
        *maps,
        "  }",
    )
    return "\n".join(("table inet policies {", *counters, *chains, *base, "}", ""))


def _pods(plan: Plan, bindings: Bindings) -> Iterator[_Pod]:
    for node in plan.pods:
        namespace = node.name.partition("/")[0]
        labels = node.pod.labels if node.pod else _DNS_LABELS if node.name == DNS_POD else {}
        yield _Pod(node.name, node.host or "", namespace, labels, bindings.pods[node.name])


def _isolating(pod: _Pod, direction: Direction, lab: Lab) -> dict[str, NetworkPolicy]:
    """Return the policies that isolate a pod in a direction, by name."""
    tenant = lab.namespaces.get(pod.namespace)
    return {
        f"{pod.namespace}/{name}": policy
        for name, policy in (tenant.network_policies.items() if tenant else ())
        if direction in policy.directions and policy.pod_selector.matches(pod.labels)
    }


def _allowed(  # noqa: PLR0913 - one policy, and all that its words may mean
    name: str,
    policy: NetworkPolicy,
    direction: Direction,
    side: str,
    everybody: tuple[_Pod, ...],
    lab: Lab,
) -> Iterator[str]:
    """Yield a line for each combination of peer and port that a policy's rules allow."""
    namespace = name.partition("/")[0]
    for rule in policy.rules(direction):
        peers = [_peer(peer, namespace, side, everybody, lab) for peer in rule.peers] if rule.peers else [""]
        for peer in peers:
            for port in map(_port, rule.ports) if rule.ports else ("",):
                if peer is not None:
                    yield " ".join(filter(None, (peer, port, _decided("allow", name, direction))))


def _peer(peer: PolicyPeer, namespace: str, side: str, everybody: tuple[_Pod, ...], lab: Lab) -> str | None:
    """Return who is meant as a match; None for selectors that select nobody."""
    if peer.ip_block is not None:
        match = f"ip {side} {peer.ip_block.cidr}"
        left_out = ", ".join(map(str, peer.ip_block.except_))
        return f"{match} ip {side} != {{ {left_out} }}" if left_out else match
    found = [
        str(pod.address)
        for pod in everybody
        if (
            pod.namespace == namespace
            if peer.namespace_selector is None
            else peer.namespace_selector.matches(namespace_labels(lab, pod.namespace))
        )
        if peer.pod_selector is None or peer.pod_selector.matches(pod.labels)
    ]
    return f"ip {side} {{ {', '.join(found)} }}" if found else None


def _port(port: PolicyPort) -> str:
    protocol = port.protocol.lower()
    if port.port is None:
        return f"meta l4proto {protocol}"
    last = f"-{port.end_port}" if port.end_port is not None and port.end_port != port.port else ""
    return f"{protocol} dport {port.port}{last}"


def _decided(action: str, name: str, direction: Direction) -> str:
    counter = counter_name("rule" if action == "allow" else "denied", name)
    prefix = f"{action} {name} {direction.lower()}"
    done = "return" if action == "allow" else "drop"
    return f'counter name {counter} log prefix "{prefix}" group {NFLOG_GROUP} {done}'
