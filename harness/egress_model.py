"""The models of a cluster's way out through a gateway, as the route controller of F5 SPK has it. Frozen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.entry import Entry
from harness.lab_words import Address, Form, Labels, Name, Names
from harness.labels import LabelSelector

Interface = Annotated[
    str, Form(r"^[a-z][a-z0-9-]*$", "an interface's name such as shim1, at most 15 characters", 15)
]


class Way(Entry):
    """The way of one kind of interface: every node has a macvlan shim on this network, by which a table leads out.

    `addresses` are the shims', by node; the others get the next free one.
    """

    network: Name
    shim: Interface
    table: Annotated[int, Field(ge=1, le=252, strict=True)]
    addresses: dict[Name, Address] = Field(default_factory=dict)


class Egress(Entry):
    """Policy routing of watched pods to a gateway: of those in the namespaces of `watch` that `pods` selects.

    `mode` says for which interfaces: `regular` for the pods' own, `secureSPK` for second ones, `pseudoCNI` for both.
    `fault` leaves out a part, so that tests can show that a run notices.
    """

    mode: Literal["regular", "secureSPK", "pseudoCNI"] = "regular"
    watch: Labels = ()
    pods: LabelSelector | None = None
    gateway: Name
    primary: Way | None = None
    secondary: Way | None = None
    fault: Literal["no-direct-rules", "no-guard"] | None = None


class Holds(Entry):
    """Connections that a pod opens at its start and keeps open, as an application with a pool of them does."""

    to: Annotated[
        str, Form(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}$", "a node and port such as clearing:9000")
    ]
    connections: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1


class SecondInterface(Entry):
    """A pod's second interface, `net1`: a macvlan on its node's card in a network, and what is reached by it."""

    network: Name
    address: Address | None = None
    toward: Names = ()
