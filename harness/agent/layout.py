"""The lowered plan: namespaces, interfaces, addresses, routes and rules. Data only, built by the lab process."""

from __future__ import annotations

from dataclasses import dataclass, field

LARGE = 256
"""Nodes of a lab; above that, rings have smaller blocks, and no frame is longer than its link's MTU."""


@dataclass(frozen=True)
class Nic:
    """One end of a virtual Ethernet pair inside a space; `peer` is a bridge or another space's interface.

    With `macvlan` there is no pair: the peer is the card that it is a macvlan of, in bridge mode.
    `mtu` is its own, `peer_mtu` that of the other end. Without `whole` no frame on either end is longer than that, as
    on a wire. `mirrors` are the other space's devices that get a copy of all that passes the other end.
    `found_by` is the address by which a card is known that others made, in a space that is `here`.
    """

    name: str
    mac: str
    addresses: tuple[str, ...]
    peer_space: str | None
    peer_name: str
    peer_mac: str
    bridge: str | None = None
    tap: str = ""
    macvlan: bool = False
    mtu: int = 1500
    peer_mtu: int = 1500
    whole: bool = True
    mirrors: tuple[str, ...] = ()
    found_by: str = ""


@dataclass(frozen=True)
class Tunnel:
    """A VXLAN device: it sends from `local`; `ends` are the MACs behind it, each with the end point that has it.

    The MAC of zeros stands for all others. One of kind `ipip` has neither MAC nor VNI nor ends; one of kind
    `geneve` has one `remote` end, to which it sends and from which alone it takes.
    """

    name: str
    mac: str
    vni: int
    local: str
    mtu: int
    ends: tuple[tuple[str, str], ...] = ()
    addresses: tuple[str, ...] = ()
    tap: str = ""
    kind: str = "vxlan"
    remote: str = ""


@dataclass(frozen=True)
class Route:
    """A route: destination prefix, next hop or device, and table."""

    destination: str
    gateway: str | None = None
    device: str | None = None
    table: int = 254
    kind: str = "unicast"
    onlink: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Neighbour:
    """A permanent neighbour entry."""

    device: str
    address: str
    mac: str


@dataclass(frozen=True)
class Space:
    """One node: a network namespace; a pod has mount and UTS namespaces too.

    One that `hosts` is a cluster node, whether it has pods or not. One that is `here` is the namespace that the agent
    is in: others made it, gave it its sysctls, and put its cards on their networks.
    """

    name: str
    hostname: str
    pod: bool
    nics: tuple[Nic, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    loopback: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    rules: str = ""
    etc: tuple[tuple[str, str], ...] = ()
    tapped: bool = True
    here: bool = False
    hosts: bool = False


@dataclass(frozen=True)
class Layout:
    """A whole lab, lowered; `bridges` are its networks by name, each with its prefix and MTU."""

    bridges: dict[str, tuple[str, int]] = field(default_factory=dict)
    spaces: tuple[Space, ...] = ()
    hosts: str = ""
    taps: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """A program to start in a space; when it counts as ready, and its live files as applied (plan.Ready, in words)."""

    space: str
    name: str
    argv: tuple[str, ...]
    ready_by: str
    ready_value: str
    capable: bool
    first: bool
    environment: tuple[tuple[str, str], ...]
    applied_by: str = "nothing"
    applied_value: str = ""


@dataclass(frozen=True)
class PlacedFile:
    """A file of a node, at its path in the sandbox; files of all nodes have no node, live ones need no new start."""

    node: str
    path: str
    content: str
    mode: int
    live: bool = False


@dataclass(frozen=True)
class Payload:
    """All that the lab process is given; it reads no file of the host and knows no kind of node.

    `source` is the lab file's path and text, and `state` what all of this was computed from, kept unread: both
    for those who ask later what runs. `key_logs` are the nodes' files of TLS secrets, where there
    are any, and by no name that of probes.
    """

    lab: str
    source: tuple[str, str]
    state: bytes
    layout: Layout
    starts: tuple[Start, ...]
    files: tuple[PlacedFile, ...]
    keep: tuple[str, ...]
    path: str
    library_path: str | None
    start_seconds: float
    key_logs: dict[str, str] = field(default_factory=dict)
