"""What a node knows of routes: the kernel's table, BIRD's, and every change of the kernel's since a mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from harness.netlink import MAIN, Route, RouteEvent
from harness.programs.bird_control import BirdRoute

_INET = 2


@dataclass(frozen=True)
class KernelRoute:
    """A route of the main table; `protocol` is the kernel's word (`bird`, `boot`, `static`, `kernel`)."""

    destination: IPv4Network
    type: str
    gateway: str | None
    protocol: str
    metric: int

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        kind = "" if self.type == "unicast" else f"{self.type} "
        metric = f" metric {self.metric}" if self.metric else ""
        return f"{kind}{self.destination}{via} proto {self.protocol}{metric}"


@dataclass(frozen=True)
class RouteChange:
    """A route came (`added`) or went, as the kernel told it at `time` (ns since the epoch)."""

    time: int
    added: bool
    route: KernelRoute


@dataclass(frozen=True)
class Routing:
    """A node's tables at one moment, and what changed before it.

    `bird` is None where no BIRD answered, `silence` says why one that runs did not, `lost` which changes are missing.
    `down` are BIRD's BGP sessions that are not established.
    """

    kernel: tuple[KernelRoute, ...] = ()
    bird: tuple[BirdRoute, ...] | None = None
    silence: str = ""
    changes: tuple[RouteChange, ...] = ()
    lost: str = ""
    down: tuple[str, ...] = ()

    def to(self, network: IPv4Network) -> KernelRoute | None:
        """Return the route that the kernel takes there: the longest prefix, and of these the lowest metric."""
        fitting = [route for route in self.kernel if network.subnet_of(route.destination)]
        return min(fitting, key=lambda route: (-route.destination.prefixlen, route.metric), default=None)

    def of_bird(self, network: IPv4Network) -> BirdRoute | None:
        """Return the route that BIRD uses to exactly this network."""
        return next((one for one in self.bird or () if one.best and one.destination == str(network)), None)


@dataclass(frozen=True)
class Steps:
    """What steps did to a lab: when each began (ns since the epoch), and every block that each node had since."""

    began: tuple[int, ...] = ()
    blocks: Mapping[str, tuple[IPv4Network, ...]] = field(default_factory=dict)


def read(routes: Iterable[Route]) -> tuple[KernelRoute, ...]:
    """Return what netlink told of the main table, IPv4 only."""
    return tuple(_route(route) for route in routes if route.table == MAIN and route.family == _INET)


def changes(events: Iterable[tuple[int, RouteEvent]]) -> tuple[RouteChange, ...]:
    """Return what netlink told of changes of the main table, IPv4 only."""
    return tuple(
        RouteChange(time, event.added, _route(event.route))
        for time, event in events
        if event.route.table == MAIN and event.route.family == _INET
    )


def _route(route: Route) -> KernelRoute:
    destination = IPv4Network("0.0.0.0/0" if route.dst == "default" else route.dst)
    return KernelRoute(destination, route.type, route.gateway, route.proto, route.metric)
