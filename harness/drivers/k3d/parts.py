"""Layout -> containers and networks: what the engine is asked for, and what each container's agent is given. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from harness.agent.layout import Layout, Nic, Payload, Space
from harness.errors import InputError

CAPABILITIES = ("NET_ADMIN", "NET_RAW")
"""All that a node outside has: it configures its own cards and listens on them."""
HOST_CAPABILITIES = (*CAPABILITIES, "SYS_ADMIN", "SETPCAP", "SYS_CHROOT", "DAC_OVERRIDE")
"""What a simulated cluster node has besides, to make its pods' namespaces; a real k3d node is privileged."""

_PINGS = ("net.ipv4.ping_group_range", "0 2147483647")


@dataclass(frozen=True)
class Network:
    """A network of the engine; `gateway` is the address that the engine's bridge takes, and nobody else has.

    `given` is the part from which the engine chooses addresses for others, such as nodes of a cluster.
    """

    name: str
    cidr: IPv4Network
    gateway: IPv4Address
    mtu: int
    given: IPv4Network | None = None


@dataclass(frozen=True)
class Container:
    """One node outside, or a cluster node with its pods; `cards` are (network, address) in the order of its cards.

    `holds` names every node in it. `sysctls` are set by the engine: a container cannot.
    """

    name: str
    cards: tuple[tuple[str, IPv4Address], ...]
    holds: tuple[str, ...]
    sysctls: Mapping[str, str]
    capabilities: tuple[str, ...]
    confined: bool
    payload: Payload


def networks(payload: Payload) -> tuple[Network, ...]:
    """Return the networks of a lab; raises InputError when one has no address left for the engine's bridge."""
    taken = _taken(payload.layout)
    return tuple(
        Network(name, IPv4Network(cidr), next(_free(IPv4Network(cidr), taken, name)), mtu)
        for name, (cidr, mtu) in payload.layout.bridges.items()
    )


def containers(payload: Payload) -> tuple[Container, ...]:
    """Return the containers that a lab comes to, in the plan's order; a pod is within its cluster node's."""
    taken = _taken(payload.layout) | {network.gateway for network in networks(payload)}
    return tuple(_container(space, payload, taken) for space in payload.layout.spaces if not space.pod)


def _container(space: Space, payload: Payload, taken: set[IPv4Address]) -> Container:
    pods = tuple(
        other for other in payload.layout.spaces if other.pod and other.nics[0].peer_space == space.name
    )
    here = replace(space, here=True, nics=tuple(_cards(space, payload.layout, taken)))
    holds = (space.name, *(pod.name for pod in pods))
    layout = payload.layout
    own = replace(
        payload,
        state=b"",
        source=("", ""),
        layout=Layout(
            {}, (here, *pods), layout.hosts, {key: tap for key, tap in layout.taps.items() if key[0] in holds}
        ),
        starts=tuple(start for start in payload.starts if start.space in holds),
        files=tuple(file for file in payload.files if file.node in ("", *holds)),
    )
    return Container(
        name=space.name,
        cards=tuple((nic.bridge, IPv4Address(nic.found_by)) for nic in here.nics if nic.bridge),
        holds=holds,
        sysctls=dict((*space.sysctls, _PINGS)),
        capabilities=HOST_CAPABILITIES if space.hosts else CAPABILITIES,
        confined=not space.hosts,
        payload=own,
    )


def _cards(space: Space, layout: Layout, taken: set[IPv4Address]) -> Iterator[Nic]:
    """Yield a space's cards, each with the address by which its agent finds it.

    The engine gives every card one; a card that is to have none (of a shim) loses it again.
    """
    for nic in space.nics:
        if nic.bridge is None:
            yield nic
        elif nic.addresses:
            yield replace(nic, found_by=nic.addresses[0].partition("/")[0])
        else:
            free = next(_free(IPv4Network(layout.bridges[nic.bridge][0]), taken, nic.bridge))
            taken.add(free)
            yield replace(nic, found_by=str(free))


def _taken(layout: Layout) -> set[IPv4Address]:
    """Return every address that nodes have."""
    cards = (nic for space in layout.spaces for nic in space.nics)
    return {IPv4Address(address.partition("/")[0]) for nic in cards for address in nic.addresses}


def _free(cidr: IPv4Network, taken: set[IPv4Address], name: str) -> Iterator[IPv4Address]:
    """Yield free addresses of a network, the last first: plans count from its beginning."""
    last = int(cidr.broadcast_address) - 1
    for number in range(last, int(cidr.network_address), -1):
        if IPv4Address(number) not in taken:
            yield IPv4Address(number)
    raise InputError(f"network {name!r} ({cidr}) has no address left for the container engine")
