"""The network firewall: an ordered nftables rule set on a router.

What no rule allows is dropped, counted and logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.identity import Certificates
from harness.lab import Entry, Flag, Lab, Line, Name, Outside, Port
from harness.lookup import nearest
from harness.plan import Bindings, Node, Plan, Runtime, counter_name

if TYPE_CHECKING:
    from collections.abc import Iterator

FORWARDS = True
NFLOG_GROUP = 5
"""The netlink log group that drivers listen to."""


class Rule(Entry):
    """One rule: from and to are names (`snat/<pool>`, `pool/<pool>`, a node, a network), never addresses."""

    name: Name
    from_: Line | None = Field(alias="from", default=None)
    to: Line | None = None
    port: Port | None = None
    allow: Flag


class Spec(Outside):
    """A firewall in a lab file."""

    kind: Literal["firewall"]
    rules: tuple[Rule, ...] = ()


def deciders(spec: Spec) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this node."""
    return (*(rule.name for rule in spec.rules), "default")


def check(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with this node in its lab, each with its place below `outside.<name>`."""
    nodes = list(lab.cluster.nodes) if lab.cluster else []
    pools = [f"snat/{pool}" for node in lab.outside.values() for pool in getattr(node, "snat_pools", {})]
    pools += [f"pool/{pool}" for pool in (lab.cluster.pools if lab.cluster else ())]
    known = sorted({*lab.networks, *nodes, *lab.outside, *pools})
    for index, rule in enumerate(spec.rules):
        if rule.name == "default":
            yield (
                ("rules", index, "name"),
                "'default' is what the firewall calls its last rule; choose another name",
            )
        if rule.name in [earlier.name for earlier in spec.rules[:index]]:
            yield ("rules", index, "name"), f"rule {rule.name!r} of {name!r} is written twice"
        for key, word in (("from", rule.from_), ("to", rule.to)):
            if word is not None and word not in known:
                yield (
                    ("rules", index, key),
                    f"unknown node, network or pool {word!r}; {nearest(word, known)}",
                )


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return the rule set: each new flow is counted and logged with the name of the rule that decided it."""
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no firewall")
    counters = ["  counter default { }"]
    rules = []
    for rule in node.spec.rules:
        counter = counter_name("rule", rule.name)
        counters.append(f"  counter {counter} {{ }}")
        words = [
            *_match("saddr", rule.from_, plan, bindings),
            *_match("daddr", rule.to, plan, bindings),
            *((f"tcp dport {rule.port}",) if rule.port else ()),
            "ct state new",
            f"counter name {counter}",
            f'log prefix "{"allow" if rule.allow else "drop"} {rule.name}" group {NFLOG_GROUP}',
            "accept" if rule.allow else "drop",
        ]
        rules.append("    " + " ".join(words))
    text = "\n".join(counters), "\n".join(rules)
    return Runtime(
        rules=f"""\
table ip firewall {{
{text[0]}
  chain forward {{ type filter hook forward priority filter; policy drop;
    ct state established,related accept
{text[1]}
    counter name default log prefix "drop default" group {NFLOG_GROUP} drop
  }}
}}
"""
    )


def _match(side: str, name: str | None, plan: Plan, bindings: Bindings) -> tuple[str, ...]:
    """Return the addresses that a name in a rule stands for, as a match."""
    if name is None:
        return ()
    pool = name.removeprefix("snat/")
    if pool != name:
        found = [
            str(address)
            for other in plan.nodes
            for address in getattr(other.spec, "snat_pools", {}).get(pool, ())
        ]
    elif name.startswith("pool/") and plan.lab.cluster is not None:
        found = [str(plan.lab.cluster.pools[name.removeprefix("pool/")].cidr)]
    elif name in plan.lab.networks:
        found = [str(plan.lab.networks[name].cidr)]
    else:
        found = [str(address) for address in bindings.all_addresses(plan.node(name))]
    return (f"ip {side} {{ {', '.join(found)} }}",)
