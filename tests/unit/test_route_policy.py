"""What policy routing is wanted, and what is changed for it."""

from __future__ import annotations

import pytest

from harness import netlink
from harness.programs import route_policy

LINKS = {"shim1": 5, "shim2": 6}
WEB, SHOP = "10.124.18.207", "10.124.18.211"
STATE = {
    "mode": "pseudoCNI",
    "direct": ["10.124.18.192/26", "10.1.10.0/24"],
    "primary": {"table": 1, "via": "10.1.30.242", "dev": "shim1"},
    "secondary": {"table": 2, "via": "10.1.10.160", "dev": "shim2"},
    "workloads": [
        {"name": "spk-apps/web", "primary": WEB, "secondary": "10.1.10.171"},
        {"name": "spk-apps/shop", "primary": SHOP},
    ],
}


def changed(**parts: object) -> route_policy.State:
    """Return the state with other parts."""
    return route_policy.state_of(STATE | parts)


def standing(state: route_policy.State) -> tuple[list[netlink.Rule], list[netlink.Route]]:
    """Return the kernel's rules and routes, its own among them, when a state is in it."""
    kernel = netlink.Rule(2, 32766, None, None, netlink.MAIN, "table", None, None)
    six = netlink.Rule(10, 32257, None, None, 1, "table", None, None)
    return [kernel, six, *route_policy.rules_of(state)], list(route_policy.routes_of(state, LINKS))


def words(messages: tuple[netlink.Message, ...]) -> list[str]:
    """Return what messages ask for."""
    return [message.description for message in messages]


def test_a_state_that_stands_needs_nothing() -> None:
    """Reconciling twice changes nothing the second time, and leaves rules of IPv6 and of others alone."""
    state = changed()
    assert route_policy.change_to(state, LINKS, *standing(state)).batches == ()


def test_the_first_change_makes_guards_routes_and_rules_in_a_safe_order() -> None:
    """Routes come before the rules that lead to them, and of the rules those first that keep the cluster direct."""
    change = route_policy.change_to(changed(), LINKS, [], [])
    assert words(change.routes) == [
        "add unreachable route to default in table 1",
        "add unicast route to default via 10.1.30.242 on interface 5 in table 1",
        "add unicast route to 10.1.30.242/32 via 10.1.30.242 on interface 5 in table 1",
        "add unreachable route to default in table 2",
        "add unicast route to default via 10.1.10.160 on interface 6 in table 2",
        "add unicast route to 10.1.10.160/32 via 10.1.10.160 on interface 6 in table 2",
    ]
    assert words(change.rules) == [
        "add rule 32254 from all to 10.124.18.192/26 table 254",
        "add rule 32254 from all to 10.1.10.0/24 table 254",
        f"add rule 32257 from {WEB}/32 to all table 1",
        f"add rule 32257 from {SHOP}/32 to all table 1",
        "add rule 32258 from 10.1.10.171/32 to all table 2",
    ]
    assert change.batches == (change.routes, change.rules)


@pytest.mark.parametrize(
    ("mode", "priorities", "tables"),
    [
        ("regular", {32254, 32257}, {1}),
        ("secureSPK", {32254, 32258}, {2}),
        ("pseudoCNI", {32254, 32257, 32258}, {1, 2}),
    ],
)
def test_the_mode_says_which_interfaces_are_routed(mode: str, priorities: set[int], tables: set[int]) -> None:
    """`regular` is for primary interfaces, `secureSPK` for second ones, `pseudoCNI` for both."""
    state = changed(mode=mode)
    assert {rule.priority for rule in route_policy.rules_of(state)} == priorities
    assert {route.table for route in route_policy.routes_of(state, LINKS)} == tables


def test_only_the_rule_of_a_workload_that_went_is_deleted() -> None:
    """Of what stands nothing else is touched."""
    left = changed(workloads=STATE["workloads"][1:])  # type: ignore[index]
    change = route_policy.change_to(left, LINKS, *standing(changed()))
    assert words(change.rules_gone) == [
        "delete rule 32258 from 10.1.10.171/32 to all table 2",
        f"delete rule 32257 from {WEB}/32 to all table 1",
    ]
    assert change.batches == (change.rules_gone,)


def test_a_rule_to_the_wrong_table_is_replaced_the_right_one_first() -> None:
    """Adds come before deletes, so that there is no moment without a rule."""
    rules, routes = standing(changed())
    wrong = netlink.Rule(2, 32257, f"{WEB}/32", None, 2, "table", None, None)
    rules = [wrong if rule.src == f"{WEB}/32" else rule for rule in rules]
    change = route_policy.change_to(changed(), LINKS, rules, routes)
    assert [words(batch) for batch in change.batches] == [
        [f"add rule 32257 from {WEB}/32 to all table 1"],
        [f"delete rule 32257 from {WEB}/32 to all table 2"],
    ]


def test_a_rule_that_differs_in_something_else_is_not_taken_for_ours() -> None:
    """A rule that also asks for a mark does not route the pod's traffic."""
    rules, routes = standing(changed())
    marked = netlink.Rule(2, 32257, f"{WEB}/32", None, 1, "table", 7, None)
    rules = [marked if rule.src == f"{WEB}/32" else rule for rule in rules]
    change = route_policy.change_to(changed(), LINKS, rules, routes)
    assert (len(change.rules), len(change.rules_gone)) == (1, 1)


def test_of_a_shim_that_is_down_only_the_guard_stands() -> None:
    """The kernel took the routes with the interface; nothing is asked for that it would refuse."""
    down = {"shim2": 6}
    _, routes = standing(changed())
    left = [route for route in routes if route.dev != 5]
    rules, _ = standing(changed())
    assert route_policy.change_to(changed(), down, rules, left).batches == ()
    assert list(route_policy.shown(changed(), down)) == [
        "table 1: shim1 is not up, so that its way out is unreachable"
    ]
    again = route_policy.change_to(changed(), LINKS, rules, left)
    assert words(again.routes) == [
        "add unicast route to default via 10.1.30.242 on interface 5 in table 1",
        "add unicast route to 10.1.30.242/32 via 10.1.30.242 on interface 5 in table 1",
    ]


def test_another_gateway_takes_the_place_of_the_one_before() -> None:
    """The default is replaced, and the way to the old gateway forgotten afterwards."""
    moved = changed(primary={"table": 1, "via": "10.1.30.250", "dev": "shim1"})
    change = route_policy.change_to(moved, LINKS, *standing(changed()))
    assert words(change.routes) == [
        "add unicast route to default via 10.1.30.250 on interface 5 in table 1",
        "add unicast route to 10.1.30.250/32 via 10.1.30.250 on interface 5 in table 1",
    ]
    assert words(change.routes_gone) == ["delete route to 10.1.30.242/32 via 10.1.30.242 in table 1"]
    assert not change.rules + change.rules_gone


def test_a_table_that_is_not_wanted_any_more_is_emptied_after_its_rules() -> None:
    """Its rules go first: a rule to an empty table leads on to the main one."""
    regular = changed(mode="regular")
    change = route_policy.change_to(regular, LINKS, *standing(changed()), tables=[2])
    assert len(change.routes_gone) == 3
    assert change.batches == (change.rules_gone, change.routes_gone)


def test_without_workloads_no_rule_is_left() -> None:
    """What keeps the cluster direct goes with the last workload, and after it."""
    change = route_policy.change_to(changed(workloads=[]), LINKS, *standing(changed()))
    priorities = [int(text.split()[2]) for text in words(change.rules_gone)]
    assert priorities == [32258, 32257, 32257, 32254, 32254]


def test_500_workloads_and_one_more_cost_one_rule() -> None:
    """The difference is of sets: what stands is neither deleted nor made again."""
    many = [{"name": f"spk-apps/w{n}", "primary": f"10.124.{n // 250}.{n % 250 + 1}"} for n in range(501)]
    before, after = changed(workloads=many[:500]), changed(workloads=many)
    change = route_policy.change_to(after, LINKS, *standing(before))
    assert words(change.rules) == ["add rule 32257 from 10.124.2.1/32 to all table 1"]
    assert change.batches == (change.rules,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "other"},
        {"direct": ["10.124.18.193/26"]},
        {"workloads": [{"name": "x", "primary": "10.124.18"}]},
        {"primary": {"table": 254, "via": "10.1.30.242", "dev": "shim1"}},
        {"primary": {"table": 2, "via": "10.1.30.242", "dev": "shim1"}},
        {"primary": {"table": 1, "via": "10.1.30.242"}},
    ],
)
def test_what_is_no_state_is_refused(wrong: dict[str, object]) -> None:
    """An unknown mode, a range with host bits, a broken address, a table of the kernel's or of another way."""
    with pytest.raises((ValueError, KeyError)):
        changed(**wrong)
