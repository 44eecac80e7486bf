"""Mistakes of NetworkPolicies: one that is gone, a direction that is open, a rule that is gone or lets more pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.mutation import REMOVED, Loc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.lab import Lab


def edits(lab: Lab) -> Iterator[tuple[Loc, str, Any, tuple[str, ...]]]:
    """Yield what may be wrong with each policy; they are held at the pods' own interfaces."""
    for namespace, tenant in lab.namespaces.items():
        hops = tuple(f"{namespace}/{workload}" for workload in tenant.workloads)
        for name, policy in tenant.network_policies.items():
            here = ("namespaces", namespace, "network_policies", name)
            for below, what, value in _of_policy(policy):
                yield (*here, *below), what, value, hops


def _of_policy(policy: Any) -> Iterator[tuple[Loc, str, Any]]:
    yield (), "removed", REMOVED
    if len(policy.directions) > 1:
        for direction in policy.directions:
            left = tuple(other for other in policy.directions if other != direction)
            yield ("policy_types",), f"{direction} is open", left
    for key, peers in (("ingress", "from_"), ("egress", "to")):
        for index, rule in enumerate(getattr(policy, key)):
            here = (key, index)
            yield here, "removed", REMOVED
            if rule.peers:
                yield (*here, peers), "anybody", ()
            yield from _ports(here, rule.ports)
            for number, peer in enumerate(rule.peers):
                if len(rule.peers) > 1:
                    yield (*here, peers, number), "removed", REMOVED
                yield from _peer((*here, peers, number), peer)


def _ports(here: Loc, ports: tuple[Any, ...]) -> Iterator[tuple[Loc, str, Any]]:
    if ports:
        yield (*here, "ports"), "any port", ()
    for index in range(len(ports) if len(ports) > 1 else 0):
        yield (*here, "ports", index), "removed", REMOVED


def _peer(here: Loc, peer: Any) -> Iterator[tuple[Loc, str, Any]]:
    if peer.ip_block is not None and peer.ip_block.except_:
        yield (*here, "ip_block", "except_"), "nothing excepted", ()
    if peer.pod_selector is not None and peer.namespace_selector is not None:
        yield (*here, "pod_selector"), "any pod there", None
