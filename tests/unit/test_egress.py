"""The way out by a gateway: pools by namespace, shims and second interfaces, what controller and gateway are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tenants import plan_of, pretended_certificates

import harness
from harness import lookup
from harness.agent.bind import bind
from harness.agent.change import difference
from harness.agent.layout import Layout, Payload, PlacedFile, Start
from harness.agent.lower import lower
from harness.drivers import fake
from harness.plan import Runtime, render
from harness.programs import route_policy
from harness.scenario_names import words_of

LAB = (Path(harness.__file__).parents[1] / "tests/plans/two-ways-out.yaml").read_text(encoding="utf-8")
CLIENT = "client: {runs: client, net1: {network: external, address: 10.1.10.170, toward: [servers]}}"
FREE = "client: {runs: client, net1: {network: external}}"


def rendered(text: str = LAB) -> dict[str, Runtime]:
    """Return what each node of the lab runs and holds."""
    plan = plan_of(text)
    return render(plan, bind(plan), pretended_certificates(plan))


def gateway_rules(text: str = LAB) -> list[str]:
    """Return the gateway's rules, line by line."""
    return [line.strip() for line in rendered(text)["spk"].rules.splitlines()]


def test_pods_get_addresses_of_the_pool_that_names_their_namespace() -> None:
    """All others get theirs from the first pool; a node has a block of each pool that its pods need."""
    bindings = bind(plan_of(LAB))
    assert str(bindings.pods["apps/client"]) == "10.124.0.1"
    assert str(bindings.pods["kube-system/kube-dns"]) == "10.53.0.1"
    assert [str(block) for block in bindings.blocks["worker-1"]] == ["10.53.0.0/26", "10.124.0.0/26"]


def test_a_pods_address_stays_when_the_plan_changes() -> None:
    """With earlier bindings, blocks and addresses of both pools and of second interfaces are the same."""
    before = bind(plan_of(LAB.replace(CLIENT, FREE)))
    more = plan_of(
        LAB.replace(CLIENT, f"{FREE}\n      another: {{runs: client, net1: {{network: external}}}}")
    )
    after = bind(more, earlier=before)
    assert after.blocks == before.blocks
    assert after.pods["apps/client"] == before.pods["apps/client"]
    assert after.second["apps/client"] == before.second["apps/client"]
    assert len({*after.second.values(), *after.pods.values()}) == 5


@pytest.mark.parametrize("binding", [bind, fake.binding])
def test_shims_and_second_interfaces_have_addresses_of_their_networks(binding: object) -> None:
    """Declared ones as they are; the others differ from every other address there."""
    plan = plan_of(LAB.replace(CLIENT, FREE))
    bindings = binding(plan)  # type: ignore[operator] # either driver's
    assert str(bindings.addresses["worker-1", "internal"]) == "10.1.30.244"
    there = [
        bindings.addresses["worker-1", "external"],
        bindings.addresses["spk", "external"],
        bindings.second["apps/client"],
    ]
    assert len(set(there)) == 3
    assert all(address in plan.lab.networks["external"].cidr for address in there)


def test_a_declared_second_address_is_nobody_elses() -> None:
    """It is stepped over when nodes get theirs, and is the pod's on the wire as well."""
    plan = plan_of(LAB.replace("10.1.10.170", "10.1.10.2"))
    bindings = bind(plan)
    assert str(bindings.second["apps/client"]) == "10.1.10.2"
    assert str(bindings.addresses["worker-1", "external"]) == "10.1.10.3"
    assert [str(one) for one in bindings.all_addresses(plan.node("apps/client"))] == [
        "10.124.0.1",
        "10.1.10.2",
    ]


def test_interfaces_are_macvlans_on_the_nodes_cards() -> None:
    """A node has a card without address in each network and a shim on it; a pod's second one is on its node's card."""
    plan = plan_of(LAB)
    bindings = bind(plan)
    spaces = {space.name: space for space in lower(plan, bindings, rendered()).spaces}
    node = {nic.name: nic for nic in spaces["worker-1"].nics}
    assert list(node) == ["eth0", "eth1", "eth2", "shim1", "shim2"]
    assert (node["eth1"].addresses, node["eth1"].bridge, node["eth1"].macvlan) == ((), "internal", False)
    assert (node["shim1"].addresses, node["shim1"].peer_name) == (("10.1.30.244/24",), "eth1")
    assert node["shim1"].macvlan
    pod = {nic.name: nic for nic in spaces["apps/client"].nics}
    assert (pod["net1"].peer_space, pod["net1"].peer_name) == ("worker-1", "eth2")
    assert len({nic.mac for space in spaces.values() for nic in space.nics}) == sum(
        len(space.nics) for space in spaces.values()
    )
    way = {route.destination: route for route in spaces["apps/client"].routes}["10.1.70.0/24"]
    assert (way.gateway, way.device) == (str(bindings.addresses["worker-1", "external"]), "net1")
    back = {route.destination: route.gateway for route in spaces["spk"].routes}
    assert back["10.124.0.0/26"] == "10.1.30.244"


def test_the_controller_is_told_of_its_own_nodes_watched_pods() -> None:
    """What stands in its file is a state that it takes, with the tables' ways and what stays direct."""
    files = {file.path: file for file in rendered()["worker-1"].files}
    state = json.loads(files["routes.json"].content)
    assert files["routes.json"].live
    assert route_policy.state_of(state).ways["primary"] == route_policy.Way(1, "10.1.30.2", "shim1")
    assert state["direct"] == ["10.53.0.0/26", "10.124.0.0/26", "172.19.0.0/24", "10.1.10.0/24"]
    assert state["workloads"] == [
        {"name": "apps/client", "primary": "10.124.0.1", "secondary": "10.1.10.170"}
    ]


@pytest.mark.parametrize(
    ("fault", "differs"), [("no-guard", {"guard": False}), ("no-direct-rules", {"direct": []})]
)
def test_a_fault_leaves_out_one_part(fault: str, differs: dict[str, object]) -> None:
    """Everything else of what the controller is told stays."""
    faulty = LAB.replace("    gateway: spk\n", f"    gateway: spk\n    fault: {fault}\n")
    told = [json.loads(rendered(text)["worker-1"].files[0].content) for text in (LAB, faulty)]
    assert told[1] == told[0] | differs


def test_another_pod_replaces_a_live_file_and_starts_nothing() -> None:
    """The controller runs on when pods come, and is waited for until it says that it has applied the file."""
    texts = (LAB, LAB.replace(CLIENT, f"{CLIENT}\n      another: {{runs: client}}"))
    found = difference(_payload(texts[0]), _payload(texts[1]))
    assert [start.name for start in found.applying] == ["route-controller"]
    assert not [stop for stop in found.stops if stop[0] == "worker-1"]


def _payload(text: str) -> Payload:
    """Return the node's part of a payload: its controller and its files."""
    plan = plan_of(text)
    runtimes = render(plan, bind(plan), pretended_certificates(plan))
    runtime = runtimes["worker-1"]
    spaces = lower(plan, bind(plan), runtimes).spaces
    starts = tuple(
        Start(
            "worker-1",
            program.name,
            program.argv,
            program.ready.by,
            program.ready.value,
            program.capable,
            program.first,
            program.environment,
            program.applied.by,
            program.applied.value,
        )
        for program in runtime.programs
    )
    files = tuple(
        PlacedFile("worker-1", f"/run/lab/worker-1/{file.path}", file.content, file.mode, file.live)
        for file in runtime.files
    )
    layout = Layout(spaces=tuple(space for space in spaces if space.name == "worker-1"))
    return Payload("test", ("lab.yaml", ""), b"", layout, starts, files, (), "/usr/bin", None, 10)


def test_a_gateways_listeners_mark_count_and_translate() -> None:
    """What a listener takes bears its number, by which its bytes are counted and its address is chosen."""
    lines = gateway_rules()
    assert 'iifname { "eth0" } ct mark set 1 counter name accepted_primary goto counted' in lines
    assert (
        'iifname { "eth1" } ip saddr { 10.124.0.1, 10.1.10.170 } ct mark set 2 counter name accepted_tenant'
        " goto counted" in lines
    )
    assert "ct mark 1 ct direction original counter name in_primary" in lines
    assert "ct mark 1 ct direction reply counter name out_primary" in lines
    assert "ct mark 1 counter name automap_primary snat to 10.1.30.2" in lines
    spread = "jhash ip saddr mod 2 seed 0x1 map { 0 : 10.1.70.201, 1 : 10.1.70.202 }"
    assert f"ct mark 2 counter name snat_apps snat to {spread}" in lines


def test_a_gateways_policy_is_in_order_with_its_default_last() -> None:
    """A rule's namespace stands for the addresses of its pods, on both interfaces; no rule of a tenant without pods."""
    lines = gateway_rules()
    policy = lines.index("ct state established,related goto counted") + 1
    server = bind(plan_of(LAB)).addresses["server", "servers"]
    allowed = 'counter name rule_apps_to_server log prefix "allow apps-to-server" group 5 goto take'
    assert lines[policy : policy + 3] == [
        f"ip saddr {{ 10.124.0.1, 10.1.10.170 }} ip daddr {{ {server} }} tcp dport 80 {allowed}",
        'counter name rule_default log prefix "drop default" group 5 drop',
        "}",
    ]
    empty = LAB.replace("namespaces:\n  apps:", "namespaces:\n  others:\n    workloads: {}\n  apps:")
    empty = empty.replace("from: apps, to: server", "from: others, to: server")
    assert not [line for line in gateway_rules(empty) if "apps-to-server" in line]


def test_scenarios_know_the_new_names() -> None:
    """Taps of shims and second interfaces, addresses by pool and by automap, and who decides at the gateway."""
    words = words_of(plan_of(LAB).lab)
    assert {"worker-1.internal", "worker-1.shim1", "apps/client.net1"} <= set(words.taps)
    assert {"snat/apps", "automap/primary", "net1"} <= set(words.origins)
    assert words.rules("spk") == (
        "apps-to-server",
        "default",
        "no-listener",
        "snat-exhausted",
        "rp_filter",
    )


def test_the_gateway_is_a_router_that_holds_its_pools() -> None:
    """It forwards, and answers for the addresses of its pools."""
    assert lookup.find("nodes", "gateway").FORWARDS
    assert [str(address) for address in rendered()["spk"].addresses] == ["10.1.70.201", "10.1.70.202"]
