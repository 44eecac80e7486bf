"""IPv6 beside IPv4: which address is whose, what a node has of it, and where it does not go."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from small_tenants import plan_of, pretended_certificates

from harness import capabilities, dual_stack, lookup
from harness.agent.bind import bind
from harness.agent.layout import Space
from harness.agent.lower import lower
from harness.plan import Plan, Runtime, render
from harness.programs import route_policy

TEXT = (Path(__file__).parent.parent / "plans" / "dual-stack.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Return the plan of the lab with a golden file."""
    return plan_of(TEXT)


def spaces(plan: Plan) -> tuple[dict[str, Space], dict[str, Runtime]]:
    """Return what each node has and runs."""
    bindings = bind(plan)
    runtimes = render(plan, bindings, pretended_certificates(plan))
    layout = lower(plan, bindings, runtimes)
    return {space.name: space for space in layout.spaces}, runtimes


def test_an_address_has_the_number_of_its_twin(plan: Plan) -> None:
    """The same number in the second range; none where the range has no second one, or is unknown."""
    assert dual_stack.twin(IPv4Address("10.1.30.242"), plan.lab) == IPv6Address("fd00:30::f2")
    assert dual_stack.twin(IPv4Address("10.124.1.2"), plan.lab) == IPv6Address("fd00:124::102")
    assert dual_stack.twin(IPv4Address("172.19.0.9"), plan.lab) is None
    assert dual_stack.twin(IPv4Address("192.0.2.1"), plan.lab) is None


def test_a_block_has_a_twin_of_its_size(plan: Plan) -> None:
    """A /26 has a /122; a network or a pool the whole of its second range."""
    assert str(dual_stack.twin_network(IPv4Network("10.124.0.64/26"), plan.lab)) == "fd00:124::40/122"
    assert str(dual_stack.twin_network(IPv4Network("10.124.0.0/16"), plan.lab)) == "fd00:124::/112"
    assert str(dual_stack.twin_network(IPv4Network("10.1.30.0/24"), plan.lab)) == "fd00:30::/64"
    assert dual_stack.twin_network(IPv4Network("10.53.0.0/26"), plan.lab) is None


def test_a_pod_has_both_families_and_one_next_hop_of_each(plan: Plan) -> None:
    """Its default route of IPv6 leads to the link-local address that Calico has, whose MAC it knows."""
    web = spaces(plan)[0]["apps/web"]
    assert web.nics[0].addresses == ("10.124.0.1/32", "fd00:124::1/128")
    six = [(one.destination, one.gateway) for one in web.routes if ":" in one.destination]
    assert six == [("::/0", "fe80::ecee:eeff:feee:eeee")]
    assert {one.address for one in web.neighbours} == {"169.254.1.1", "fe80::ecee:eeff:feee:eeee"}


def test_a_pod_of_a_pool_without_a_second_range_has_none(plan: Plan) -> None:
    """The cluster's DNS keeps to IPv4, and has no way for anything else."""
    dns = spaces(plan)[0]["kube-system/kube-dns"]
    assert not any(":" in address for address in dns.nics[0].addresses)
    assert not any(":" in route.destination for route in dns.routes)


def test_nodes_reach_each_others_blocks_through_the_overlay(plan: Plan) -> None:
    """Each block is behind its own first address, which its node's end of the overlay has, with its MAC."""
    found = spaces(plan)[0]
    here, there = found["server-0"], found["agent-0"]
    (route,) = [one for one in here.routes if one.device == "vxlan.calico" and ":" in one.destination]
    assert (route.destination, route.gateway, route.onlink) == ("fd00:124::40/122", "fd00:124::40", True)
    assert "fd00:124::40/128" in there.tunnels[0].addresses
    assert ("vxlan.calico", "fd00:124::40", there.tunnels[0].mac) in {
        (one.device, one.address, one.mac) for one in here.neighbours
    }


def test_only_who_filters_ipv6_forwards_it(plan: Plan) -> None:
    """A firewall, whose rules are of IPv4, forwards none, and nobody has a route by way of it."""
    found = spaces(plan)[0]
    forwards = {name: dict(one.sysctls)["net.ipv6.conf.all.forwarding"] for name, one in found.items()}
    assert {name for name, value in forwards.items() if value == "1"} == {"server-0", "agent-0", "way"}
    assert not [one for one in found["server-0"].routes if one.destination == "fd00:70::/64"]
    for kind in lookup.names("nodes"):
        assert dual_stack.forwards(kind) == (kind in ("cluster-node", "gateway", "router")), kind


def test_without_a_second_range_everything_is_as_before() -> None:
    """IPv6 is off in every namespace."""
    plan = plan_of(
        TEXT.replace(", cidr6: fd00:30::/64", "")
        .replace(", cidr6: fd00:70::/64", "")
        .replace(" cidr6: fd00:124::/112,", "")
        .replace("family: ipv6", "family: ipv4")
        .replace("      egress-ipv6: {vlans: [inner], family: ipv4, namespaces: [apps], snat: automap}\n", "")
    )
    for space in spaces(plan)[0].values():
        assert dict(space.sysctls)["net.ipv6.conf.all.disable_ipv6"] == "1"
        assert not any(":" in address for nic in space.nics for address in nic.addresses)


def test_a_gateway_has_a_table_of_each_family(plan: Plan) -> None:
    """Listeners, members and the policy's addresses are of the table's family; both drop what nobody takes."""
    rules = spaces(plan)[1]["way"].rules
    four, six = rules.split("table ip6 gateway")
    assert "egress_ipv6" not in four
    assert "egress_ipv4" not in six
    assert "ip saddr { 10.124.0.1, 10.124.0.65 } ip daddr { 10.1.70.4 } tcp dport 80" in four
    assert "ip6 saddr { fd00:124::1, fd00:124::41 } ip6 daddr { fd00:70::4 } tcp dport 80" in six
    assert "snat to fd00:30::4" in six
    assert "policy drop" in six
    assert 'log prefix "drop no-listener"' in six


def test_the_route_controller_is_told_of_both_families(plan: Plan) -> None:
    """Rules and a table's guard are the same for IPv6; the default route has the metric that the kernel gives it."""
    import json  # noqa: PLC0415 - for this test only

    (text,) = [one.content for one in spaces(plan)[1]["server-0"].files if one.path == "routes.json"]
    four, six = route_policy.states_of(json.loads(text))
    assert [rule.src for rule in route_policy.rules_of(four) if rule.src] == ["10.124.0.1/32"]
    assert [rule.src for rule in route_policy.rules_of(six) if rule.src] == ["fd00:124::1/128"]
    assert [rule.dst for rule in route_policy.rules_of(six) if rule.dst] == [
        "fd00:124::/122",
        "fd00:124::40/122",
    ]
    routes = route_policy.routes_of(six, {"shim1": 5})
    assert [(one.type, one.dst, one.gateway, one.metric) for one in routes] == [
        ("unreachable", "default", None, route_policy.GUARD_METRIC),
        ("unicast", "default", "fd00:30::4", 1024),
    ]
    change = route_policy.change_to(six, {"shim1": 5}, [], [])
    assert "add unicast route to ::/0 via fd00:30::4 on interface 5 in table 1" in [
        message.description for message in change.routes
    ]
    standing = (list(route_policy.rules_of(six)), list(routes))
    assert route_policy.change_to(six, {"shim1": 5}, *standing).batches == ()
    assert route_policy.change_to(four, {}, *standing, tables=[1]).rules_gone == (), (
        "the other family's is left alone"
    )


def test_addresses_of_the_other_family_are_no_state() -> None:
    """A state says of one family only what is of that."""
    data = {
        "mode": "regular",
        "direct": [],
        "primary": {"table": 1, "via": "fd00::1", "dev": "shim1"},
        "workloads": [],
    }
    with pytest.raises(ValueError, match="fd00::1 is of the other family"):
        route_policy.states_of(data)


def test_a_driver_without_ipv6_stands_the_lab_up_with_ipv4_alone(plan: Plan) -> None:
    """The second ranges are gone, it is told, and scenarios that need IPv6 are skipped."""
    lab = capabilities.settled(plan.lab, lambda asked: {one: "not here" for one in asked if one == "ipv6"})
    assert not dual_stack.is_dual(lab)
    assert capabilities.stand_ins(plan.lab, lab) == ("everything has IPv4 alone: there is no IPv6 here",)
