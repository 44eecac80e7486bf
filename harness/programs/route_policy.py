"""What policy routing a node's workloads need, and what is to be changed for it: pure, no kernel.

The state is a JSON object, the same for every start and every change:

    {"mode": "pseudoCNI", "guard": true,
     "direct": ["10.124.18.192/26", "10.1.30.0/24"],
     "primary": {"table": 1, "via": "10.1.30.242", "dev": "shim1"},
     "secondary": {"table": 2, "via": "10.1.10.160", "dev": "shim2"},
     "workloads": [{"name": "spk-apps/nginx", "primary": "10.124.18.207", "secondary": "10.1.10.171"}]}

`direct` are the ranges of the cluster and of its nodes, which go on by the main table. The rules are those that the
route controller of F5 SPK is shown to make (article 3 of docs/coverage.md): `to` each of these ranges at 32254, `from`
each pod's primary address at 32257, `from` each address of a second interface at 32258. Modes: `regular` is for
primary interfaces, `secureSPK` for second ones, `pseudoCNI` for both.

Not in the article is each table's last route: an unreachable default, which answers when the way out is gone. Without
it the look-up would go on to the main table, and the traffic would leave by the node's own way. `guard: false`
leaves it out, to show just that.

`ipv6` is an object of the same keys but `mode` and `guard`, for IPv6: the same rules and tables of the other family.
The route to the gateway itself, which the article has beside the default, is of IPv4 only.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from harness import netlink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

DIRECT, PRIMARY, SECONDARY = 32254, 32257, 32258
"""The priorities that are ours: whatever else stands there is taken away."""

MODES = {"regular": ("primary",), "secureSPK": ("secondary",), "pseudoCNI": ("primary", "secondary")}
GUARD_METRIC = 4278198272
"""Behind every real route; of the same size as the metric of the kernel's own IPv6 guard."""

_PRIORITIES = {"primary": PRIMARY, "secondary": SECONDARY}
_IPV4, _IPV6 = int(socket.AF_INET), int(socket.AF_INET6)
_METRICS = {_IPV4: 0, _IPV6: 1024}
"""Of a route for which none is given (ip-route(8)); of IPv6 the kernel would write its own in place of 0."""

_NOWHERE = netlink.Route(
    family=_IPV4,
    dst="default",
    table=netlink.MAIN,
    type="unreachable",
    proto="boot",
    scope="global",
    metric=GUARD_METRIC,
    gateway=None,
    dev=None,
    src=None,
    onlink=False,
    nexthops=(),
)


@dataclass(frozen=True)
class Way:
    """The way out of one kind of interface: a table with a default route to a gateway over a shim."""

    table: int
    via: str
    dev: str


@dataclass(frozen=True)
class State:
    """What is wanted: ranges that stay direct, ways out, and (way, address) of the workloads, in their order."""

    direct: tuple[str, ...]
    ways: Mapping[str, Way]
    sources: tuple[tuple[str, str], ...]
    guard: bool = True
    family: int = _IPV4


@dataclass(frozen=True)
class Change:
    """What is to be done, in this order: routes and rules come before others go."""

    routes: tuple[netlink.Message, ...]
    rules: tuple[netlink.Message, ...]
    rules_gone: tuple[netlink.Message, ...]
    routes_gone: tuple[netlink.Message, ...]

    @property
    def batches(self) -> tuple[tuple[netlink.Message, ...], ...]:
        """The parts in order, without empty ones."""
        return tuple(filter(None, (self.routes, self.rules, self.rules_gone, self.routes_gone)))


def states_of(data: Any) -> tuple[State, ...]:
    """Return the states that decoded JSON describes: that of IPv4, and that of IPv6 if there is one.

    Raises ValueError, KeyError or TypeError for what is none.
    """
    six = data.get("ipv6")
    if six is None:
        return (state_of(data),)
    same = {key: data[key] for key in ("mode", "guard") if key in data}
    return state_of(data), state_of({**six, **same}, _IPV6)


def state_of(data: Any, family: int = _IPV4) -> State:
    """Return the state of one family.

    Raises ValueError, KeyError or TypeError for what is no state.
    """
    kinds = MODES[data["mode"]]
    ways = {
        kind: Way(int(data[kind]["table"]), _address(data[kind]["via"], family), str(data[kind]["dev"]))
        for kind in kinds
        if data.get(kind) is not None
    }
    if len({way.table for way in ways.values()} - {0, 253, 254, 255}) < len(ways):
        raise ValueError("each way out needs a table of its own, and none of the kernel's")
    sources = tuple(
        dict.fromkeys(
            (kind, _address(workload[kind], family))
            for kind in ways
            for workload in data["workloads"]
            if workload.get(kind) is not None
        )
    )
    direct = tuple(dict.fromkeys(_network(cidr, family) for cidr in data["direct"]))
    return State(direct, ways, sources, bool(data.get("guard", True)), family)


def rules_of(state: State) -> tuple[netlink.Rule, ...]:
    """Return the rules that a state asks for, in the order in which they are to be made.

    Without workloads there are none: nothing is to be routed, so nothing needs to be kept direct.
    """
    if not state.sources:
        return ()
    alone = 32 if state.family == _IPV4 else 128
    direct = (_rule(state.family, DIRECT, dst=cidr) for cidr in state.direct)
    sources = (
        _rule(state.family, _PRIORITIES[kind], src=f"{address}/{alone}", table=state.ways[kind].table)
        for kind, address in state.sources
    )
    return (*direct, *sources)


def routes_of(state: State, links: Mapping[str, int]) -> tuple[netlink.Route, ...]:
    """Return the routes of all tables, each table's guard first; `links` are the interfaces that are up, by name.

    Of a table whose interface is not up only the guard stands: the kernel would refuse the others.
    """
    found: list[netlink.Route] = []
    for way in state.ways.values():
        if state.guard:
            found.append(replace(_NOWHERE, family=state.family, table=way.table))
        if way.dev in links:
            ends = ("default", f"{way.via}/32") if state.family == _IPV4 else ("default",)
            found += (_via(way, dst, links[way.dev], state.family) for dst in ends)
    return tuple(found)


def change_to(
    state: State,
    links: Mapping[str, int],
    rules: Collection[netlink.Rule],
    routes: Collection[netlink.Route],
    tables: Iterable[int] = (),
) -> Change:
    """Return what turns the kernel's rules and routes into those of a state; nothing when they are those.

    `tables` are those that were ours before, so that one which is not wanted any more is emptied. Rules of other
    priorities and routes of other tables are left alone.
    """
    wanted_rules, wanted_routes = rules_of(state), routes_of(state, links)
    own = {*tables, *(way.table for way in state.ways.values())}
    there = {
        rule
        for rule in rules
        if rule.family == state.family and rule.priority in (DIRECT, PRIMARY, SECONDARY)
    }
    before = {_place(route): route for route in routes if route.family == state.family and route.table in own}
    new = [route for route in wanted_routes if not _is_same(before.get(_place(route)), route)]
    places = {_place(route) for route in wanted_routes}
    kept = set(wanted_rules)
    return Change(
        routes=tuple(_put(route) for route in new),
        rules=tuple(_add(rule) for rule in wanted_rules if rule not in there),
        # first those that lead away, then those that keep the cluster's own traffic from them
        rules_gone=tuple(_delete(rule) for rule in sorted(there - kept, key=_last_first)),
        routes_gone=tuple(_forget(before[place]) for place in sorted(before.keys() - places)),
    )


def shown(state: State, links: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence for each way out that is closed at present."""
    for way in state.ways.values():
        if way.dev not in links:
            yield f"table {way.table}: {way.dev} is not up, so that its way out is unreachable"


def _address(text: str, family: int) -> str:
    """Return an address as the kernel tells it; raises ValueError for one of another family."""
    found = ip_address(text)
    if (found.version == 6) != (family == _IPV6):
        raise ValueError(f"{text} is of the other family")
    return str(found)


def _network(text: str, family: int) -> str:
    found = ip_network(text)
    if (found.version == 6) != (family == _IPV6):
        raise ValueError(f"{text} is of the other family")
    return str(found)


def _rule(
    family: int, priority: int, *, src: str | None = None, dst: str | None = None, table: int = netlink.MAIN
) -> netlink.Rule:
    return netlink.Rule(family, priority, src, dst, table, "table", None, None)


def _via(way: Way, dst: str, dev: int, family: int) -> netlink.Route:
    metric = _METRICS[family]
    found = replace(_NOWHERE, family=family, table=way.table, type="unicast", metric=metric)
    return replace(found, dst=dst, gateway=way.via, dev=dev)


def _place(route: netlink.Route) -> tuple[int, str, int]:
    """Return what no two routes of the kernel have in common."""
    return route.table, route.dst, route.metric


def _is_same(there: netlink.Route | None, wanted: netlink.Route) -> bool:
    """Compare by where the route leads; an unreachable one has an interface of the kernel's choice."""
    if there is None or there.type != wanted.type:
        return False
    return wanted.type != "unicast" or (there.gateway, there.dev) == (wanted.gateway, wanted.dev)


def _put(route: netlink.Route) -> netlink.Message:
    return netlink.route(
        _written(route),
        gateway=route.gateway,
        dev=route.dev,
        table=route.table,
        type=route.type,
        metric=route.metric,
        replace=True,
    )


def _forget(route: netlink.Route) -> netlink.Message:
    return netlink.route_del(_written(route), gateway=route.gateway, table=route.table, metric=route.metric)


def _written(route: netlink.Route) -> str:
    """Return a route's destination so that its family is told."""
    return "::/0" if route.dst == "default" and route.family == _IPV6 else route.dst


def _add(rule: netlink.Rule) -> netlink.Message:
    return netlink.rule(rule.priority, src=rule.src, dst=rule.dst, table=rule.table)


def _delete(rule: netlink.Rule) -> netlink.Message:
    return netlink.rule_del(
        rule.priority,
        src=rule.src,
        dst=rule.dst,
        table=rule.table,
        action=rule.action,
        mark=rule.mark,
        iif=rule.iif,
    )


def _last_first(rule: netlink.Rule) -> tuple[int, str, str]:
    return -rule.priority, rule.src or "", rule.dst or ""
