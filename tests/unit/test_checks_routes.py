"""The check `routes`: two witnesses of a route, and when it became what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from judged_flows import RED, judged, lab, the, told

from harness.checks import routes
from harness.programs.bird_control import BirdRoute
from harness.routing import KernelRoute, RouteChange, Routing, Steps
from harness.scenario import RouteTo

PLAN, BINDINGS = lab()
BLOCK = BINDINGS.blocks["agent-0"][0]
NODE, OTHER = (str(BINDINGS.address(PLAN.node(name))) for name in ("agent-0", "server-0"))
KERNEL = KernelRoute(BLOCK, "unicast", NODE, "bird", 32)
BY_HAND = KernelRoute(BLOCK, "unicast", OTHER, "boot", 0)
BIRD = BirdRoute(
    str(BLOCK), "node_agent_0", best=True, type="BGP", gateway=NODE, next_hop=NODE, as_path=(64512,)
)
TABLES = Routing((KERNEL,), (BIRD,))
BEGAN = 1_000_000_000_000
STEPS = Steps((BEGAN,), {"agent-0": (BLOCK,)})
BY_BGP = {"via": "agent-0", "next_hop": "agent-0", "protocol": "bgp", "as_path": (64512,)}


def verdict(entry: Mapping[str, object], routing: Routing | None, steps: Steps = STEPS) -> tuple[str, str]:
    """Return state and words of the finding about one entry at the egress proxy."""
    asked = RouteTo.model_validate({"at": "bigip", "to": "pods/agent-0", **entry})
    evidence = replace(told(RED), routing={"bigip": routing} if routing else {}, steps=steps)
    return the(judged("routes", (asked,), evidence))


def changed(seconds: float, *, added: bool, route: KernelRoute = KERNEL) -> RouteChange:
    """Return a change so long after the last step began."""
    return RouteChange(BEGAN + int(seconds * 1e9), added, route)


def test_a_route_by_bgp_is_held_by_both_witnesses() -> None:
    """Kernel and BIRD agree on the next hop, and BIRD says who told it, by which path."""
    kernel = f"kernel: {BLOCK} via {NODE} proto bird metric 32"
    told_by_bird = f"BIRD: BGP from node_agent_0, next hop {NODE}, AS path 64512"
    assert verdict(BY_BGP, TABLES) == ("held", f"{kernel}; {told_by_bird}")


@pytest.mark.parametrize(
    ("entry", "routing"),
    [
        pytest.param({"via": "server-0"}, TABLES, id="another next hop"),
        pytest.param({"next_hop": "server-0"}, TABLES, id="another next hop of BGP"),
        pytest.param({"as_path": []}, TABLES, id="another path"),
        pytest.param({"protocol": "boot"}, TABLES, id="another protocol"),
        pytest.param({"absent": True}, TABLES, id="there, though absent"),
        pytest.param({"via": "agent-0"}, Routing(), id="absent, though there"),
        pytest.param(
            {"protocol": "bgp"}, replace(TABLES, bird=(replace(BIRD, gateway=OTHER),)), id="disagreement"
        ),
        pytest.param({"protocol": "bgp"}, replace(TABLES, bird=()), id="BIRD knows nothing of it"),
        pytest.param(
            {"protocol": "bgp"}, replace(TABLES, bird=(replace(BIRD, type="static"),)), id="not of BGP"
        ),
        pytest.param({"absent": True}, replace(TABLES, kernel=()), id="BIRD still has it"),
    ],
)
def test_another_route_is_broken(entry: Mapping[str, object], routing: Routing) -> None:
    """Whatever differs from what is said, and witnesses that disagree."""
    assert verdict(entry, routing)[0] == "broken"


@pytest.mark.parametrize(
    ("entry", "routing", "words"),
    [
        ({"via": "agent-0"}, None, "its table was not read"),
        ({"protocol": "bgp"}, Routing((KERNEL,), None, "BIRD does not answer"), "BIRD does not answer"),
        ({"protocol": "bgp"}, Routing((KERNEL,), None), "it runs no BIRD"),
        ({"absent": True}, Routing((), None, "BIRD does not answer"), "BIRD does not answer"),
        ({"via": "agent-0", "within": "1s"}, replace(TABLES, lost="1 overflow"), "1 overflow"),
        ({"to": "former-pods/agent-0", "absent": True}, TABLES, "nothing that 'former-pods/agent-0' stands"),
    ],
)
def test_evidence_that_is_missing_is_unknown(
    entry: Mapping[str, object], routing: Routing | None, words: str
) -> None:
    """A table not read, a BIRD that is silent, changes that were lost, blocks that nobody had."""
    state, seen = verdict(entry, routing)
    assert state == "unknown"
    assert words in seen


def test_the_kernel_takes_the_longest_prefix_and_then_the_lowest_metric() -> None:
    """A route written by hand wins over BIRD's to the same prefix, and any over the whole range."""
    wide = KernelRoute(IPv4Network("10.0.0.0/8"), "unicast", NODE, "static", 0)
    table = Routing((wide, KERNEL, BY_HAND), (BIRD,))
    assert verdict({"via": "server-0", "protocol": "boot"}, table)[0] == "held"
    assert verdict({"via": "agent-0", "protocol": "static"}, Routing((wide,), ()))[0] == "held"


@pytest.mark.parametrize(
    ("entry", "changes", "state"),
    [
        ({"within": "1s"}, [changed(0.2, added=True)], "held"),
        ({"within": "1s"}, [changed(1.2, added=True)], "broken"),
        ({"within": "1s"}, [changed(0.2, added=True), changed(1.2, added=True)], "broken"),
        ({"after": "1s"}, [changed(1.2, added=True)], "held"),
        ({"after": "1s"}, [changed(0.2, added=True)], "broken"),
        ({"within": "1s"}, [], "broken"),
        (
            {"within": "1s"},
            [changed(0.2, added=False, route=replace(KERNEL, destination=IPv4Network("10.9.0.0/24")))],
            "broken",
        ),
    ],
)
def test_the_last_change_counts_from_the_last_step(
    entry: Mapping[str, object], changes: list[RouteChange], state: str
) -> None:
    """What the kernel told, and when; a route that was so before, or another that changed, came not by the step."""
    assert verdict({"via": "agent-0", **entry}, replace(TABLES, changes=tuple(changes)))[0] == state


def test_former_blocks_are_those_that_a_node_had_and_has_no_more() -> None:
    """Before the steps or between them; what it has now is not among them."""
    old = IPv4Network("10.53.200.0/26")
    steps = Steps((BEGAN,), {"agent-0": (old, BLOCK)})
    assert routes.destinations("former-pods/agent-0", PLAN, BINDINGS, steps) == (old,)
    assert verdict({"to": "former-pods/agent-0", "absent": True}, TABLES, steps)[0] == "held"


@pytest.mark.parametrize(
    ("to", "networks"),
    [
        ("pods/agent-0", BINDINGS.blocks["agent-0"]),
        ("red/client", (IPv4Network(BINDINGS.pods["red/client"]),)),
        ("internet", (IPv4Network("198.51.100.0/24"),)),
    ],
)
def test_names_stand_for_networks(to: str, networks: tuple[IPv4Network, ...]) -> None:
    """A node's blocks, a pod's address, a network's range."""
    assert routes.destinations(to, PLAN, BINDINGS, Steps()) == networks


def test_waiting_ends_when_the_kernel_is_as_said() -> None:
    """Only kernels are waited for: BIRD's word is judged, not awaited."""
    entry = RouteTo.model_validate({"at": "bigip", "to": "pods/agent-0", **BY_BGP})
    assert routes.is_so(entry, Routing((KERNEL,)), PLAN, BINDINGS, STEPS)
    assert not routes.is_so(entry, Routing((BY_HAND,)), PLAN, BINDINGS, STEPS)
    assert not routes.is_so(entry, Routing(), PLAN, BINDINGS, STEPS)
