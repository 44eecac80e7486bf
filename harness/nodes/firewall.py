"""The network firewall: an ordered nftables rule set on a router; what no rule allows is dropped, counted and logged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.lab import Entry, Name, Outside, Port

FORWARDS = True


class Rule(Entry):
    """One rule: from and to are names (`snat/<pool>`, a node, a network), never addresses."""

    name: Name
    from_: str | None = Field(alias="from", default=None)
    to: str | None = None
    port: Port | None = None
    allow: bool


class Spec(Outside):
    """A firewall in a lab file."""

    kind: Literal["firewall"]
    rules: tuple[Rule, ...] = ()
