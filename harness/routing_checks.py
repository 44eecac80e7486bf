"""What must hold of what a scenario says of routes: its names, and what can be said of one route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.expect_model import RouteTo
    from harness.lab import Lab
    from harness.lab_checks import Found
    from harness.scenario_model import Scenario, Step
    from harness.scenario_names import Words

_OF_A_ROUTE = ("via", "next_hop", "protocol", "as_path")


def check_routes(entry: RouteTo, scenario: Scenario, words: Words) -> Found:
    """Yield what is wrong with an entry of `routes`, each with its place in it."""
    nodes = nodes_of(words.lab)
    if entry.at not in nodes:
        yield ("at",), f"unknown node {entry.at!r}; {nearest(entry.at, nodes)}"
    known = destinations(words)
    if entry.to not in known:
        yield ("to",), f"unknown destination {entry.to!r}; {nearest(entry.to, known)}"
    for key in ("via", "next_hop"):
        name = getattr(entry, key)
        if name is not None and name not in nodes:
            yield (key,), f"unknown node {name!r}; {nearest(name, nodes)}"
    yield from _said(entry, words)
    for key in ("within", "after"):
        if getattr(entry, key) is not None and not scenario.given:
            yield (key,), f"{key!r} counts from a step, and the scenario has none in 'given'"


def _said(entry: RouteTo, words: Words) -> Found:
    said = [key for key in _OF_A_ROUTE if getattr(entry, key) is not None]
    if entry.absent:
        yield from (((key,), f"a route that is absent has no {key!r}") for key in said)
    elif not said:
        yield (), f"say what the route is like ({', '.join(_OF_A_ROUTE)}), or that it is 'absent'"
    brought = [key for key in said if key in ("next_hop", "as_path")]
    if brought and entry.protocol not in (None, "bgp"):
        yield (brought[0],), f"{brought[0]!r} is of a route by bgp; this one is by {entry.protocol}"
    speakers = _speakers(words)
    if (brought or entry.protocol == "bgp") and entry.at in nodes_of(words.lab) and entry.at not in speakers:
        yield ("at",), f"{entry.at!r} speaks no BGP; {nearest(entry.at, speakers)}"


def check_written(step: Step, lab: Lab) -> Found:
    """Yield what is wrong with a step that writes a route by hand, each with its place below the step."""
    nodes = nodes_of(lab)
    known = [*(f"pods/{node}" for node in (lab.cluster.nodes if lab.cluster else ())), *lab.networks]
    for key, names, what in (
        ("route", nodes, "node"),
        ("toward", known, "destination"),
        ("via", nodes, "node"),
    ):
        name = getattr(step, key)
        if name is None:
            yield (), "a route needs 'toward', where it leads, and 'via', the next hop"
            return
        if name not in names:
            yield (key,), f"unknown {what} {name!r}; {nearest(name, names)}"


def nodes_of(lab: Lab) -> list[str]:
    """Return the nodes that have tables worth speaking of: those of the cluster, and those outside."""
    return [*(lab.cluster.nodes if lab.cluster else ()), *lab.outside]


def destinations(words: Words) -> list[str]:
    """Return the names that may stand under `to`."""
    nodes = list(words.lab.cluster.nodes) if words.lab.cluster else []
    blocks = [f"{kind}/{node}" for kind in ("pods", "former-pods") for node in nodes]
    return [*blocks, *words.pods, *words.lab.networks]


def _speakers(words: Words) -> list[str]:
    bgp = words.lab.cluster.bgp if words.lab.cluster else None
    if bgp is None or words.lab.cluster is None:
        return []
    peers = [peer.node for peer in bgp.peers.values()]
    return [*(words.lab.cluster.nodes if bgp.mesh or peers else ()), *peers]
