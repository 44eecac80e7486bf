"""What must hold of a lab's NetworkPolicies beyond each one's own fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.lab_model import Lab

    Found = Iterator[tuple[tuple[str | int, ...], str]]

_LONGEST = 127 - len("allow  ingress")
"""A packet filter's log has room for 127 characters (Linux, NF_LOG_PREFIXLEN), in which the decision stands too."""


def check(lab: Lab) -> Found:
    """Yield what is wrong with policies' names, and with rules of a direction that their policy leaves alone."""
    for namespace, tenant in lab.namespaces.items():
        for name, policy in tenant.network_policies.items():
            place = ("namespaces", namespace, "network_policies", name)
            if len(f"{namespace}/{name}") > _LONGEST:
                yield (
                    place,
                    f"'{namespace}/{name}' has more than {_LONGEST} characters, too many for a log entry",
                )
            for key, direction, rules in (
                ("ingress", "Ingress", policy.ingress),
                ("egress", "Egress", policy.egress),
            ):
                if rules and direction not in policy.directions:
                    yield (
                        (*place, key),
                        f"these rules have no effect: 'policyTypes' does not name {direction}",
                    )


def policy_names(lab: Lab) -> tuple[str, ...]:
    """Return the names of a lab's policies, `NAMESPACE/NAME`: what a scenario may give as `by` for a cluster node."""
    tenants = lab.namespaces.items()
    return tuple(f"{namespace}/{name}" for namespace, tenant in tenants for name in tenant.network_policies)
