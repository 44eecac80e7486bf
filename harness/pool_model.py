"""The model of an address pool: whose pods get their addresses from it, and how their packets go from node to node."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.entry import Entry
from harness.lab_words import Cidr, Cidr6, Flag, Labels

Overlay = Literal["none", "vxlan", "ipip"]
Mode = Literal["Always", "CrossSubnet", "Never"]
"""The values of `vxlanMode` and `ipipMode` of Calico's IPPool."""


class Pool(Entry):
    """A Calico IPPool: pod addresses are taken from it in blocks, one or more per node.

    The pods of `namespaces` get theirs from it; those of namespaces that no pool names, from the first. `mode` says
    when packets to its addresses are wrapped in the `overlay`: between all nodes, or those of different networks.
    `fallback` takes the overlay's place where the kernel does not have it.
    """

    cidr: Cidr
    cidr6: Cidr6 | None = None
    block: Annotated[int, Field(ge=20, le=32, strict=True)] = 26
    overlay: Overlay = "none"
    mode: Mode = "Always"
    fallback: Literal["vxlan"] | None = None
    nat_outgoing: Flag = True
    namespaces: Labels = ()

    @property
    def encapsulation(self) -> Overlay:
        """In what packets are wrapped, if they are at all."""
        return "none" if self.mode == "Never" else self.overlay
