"""The network firewall: an ordered nftables rule set on a router.

What no rule allows is dropped, counted and logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.lab import Entry, Flag, Lab, Line, Name, Outside, Port
from harness.lookup import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

FORWARDS = True


class Rule(Entry):
    """One rule: from and to are names (`snat/<pool>`, a node, a network), never addresses."""

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
    known = [*lab.networks, *nodes, *lab.outside, *pools]
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
                    f"unknown node, network or SNAT pool {word!r}; {nearest(word, known)}",
                )
