"""A lab becomes a plan: which nodes there are, what furnishes them, where they belong, what they ask for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address

import pytest
from small_tenants import LAB, plan_of, pretended_certificates

from harness.drivers import fake
from harness.identity import Request
from harness.plan import File, Program, Runtime, counter_name, endpoints, make_plan, render, spiffe_id


def test_nodes_come_in_the_order_of_the_file() -> None:
    """Cluster nodes first, then the cluster's DNS, the pods, and what lies outside, each as the file orders them."""
    assert [node.name for node in plan_of().nodes] == [
        "server-0",
        "agent-0",
        "kube-system/kube-dns",
        "red/client",
        "red/shop-v1",
        "red/shop-v2",
        "blue/client",
        "bigip",
        "firewall",
        "tinyproxy",
        "site.example",
    ]


def test_kinds_and_placement() -> None:
    """Each node has a placement and the kinds that furnish it; an injected pod has a sidecar beside its workload."""
    plan = plan_of(
        LAB.replace(
            "      client: {runs: client}\n      shop",
            "      client: {runs: client, inject: false}\n      shop",
        )
    )
    found = {node.name: (node.placement, node.kinds) for node in plan.nodes}
    assert found["server-0"] == ("cluster-node", ("cluster-node",))
    assert found["kube-system/kube-dns"] == ("pod", ("dns",))
    assert found["red/shop-v1"] == ("pod", ("workload", "sidecar"))
    assert found["red/client"] == ("pod", ("workload",))
    assert found["bigip"] == ("outside", ("egress-proxy",))
    assert [node.name for node in plan.of_kind("sidecar")] == ["red/shop-v1", "red/shop-v2", "blue/client"]
    assert [node.name for node in plan.cluster_nodes] == ["server-0", "agent-0"]


def test_pods_are_placed_in_turn_or_where_the_file_says() -> None:
    """Pods go to the cluster's nodes in turn; a workload that names a node goes there."""
    plan = plan_of()
    hosts = {node.name: node.host for node in plan.pods}
    assert hosts == {
        "kube-system/kube-dns": "server-0",
        "red/client": "server-0",
        "red/shop-v1": "agent-0",
        "red/shop-v2": "server-0",
        "blue/client": "agent-0",
    }
    moved = plan_of(
        LAB.replace("client: {runs: client}\n      shop", "client: {runs: client, node: agent-0}\n      shop")
    )
    assert moved.node("red/client").host == "agent-0"


def test_only_nodes_that_route_forward() -> None:
    """Cluster nodes, proxies and firewalls forward between their networks; forward proxies and sites do not."""
    forwards = {node.name for node in plan_of().nodes if node.forwards}
    assert forwards == {"server-0", "agent-0", "bigip", "firewall"}


def test_services_are_the_declared_the_automatic_and_the_clusters_dns() -> None:
    """Each http workload has a service of its own name unless one is declared; DNS has the tenth address."""
    plan = plan_of()
    assert list(plan.services) == ["red/proxy", "red/shop", "kube-system/kube-dns"]
    assert plan.services["red/shop"].selector == "shop"
    assert plan.services["kube-system/kube-dns"].cluster_ip == IPv4Address("10.235.0.10")


def test_endpoints_of_each_sort_of_service() -> None:
    """A selector finds every version of its workload, an endpoint a virtual server or a node's port."""
    plan = plan_of(
        LAB.replace("[bigip:exit]", "[bigip:exit, tinyproxy:8888]")
        .replace("tls: mutual,", "")
        .replace(
            "          server_identity: spiffe://cluster.local/ns/red/sa/default}\noutside", "}\noutside"
        )
    )
    bindings = fake.binding(plan)
    shop = endpoints(plan, bindings, plan.services["red/shop"])
    assert shop == tuple((name, bindings.pods[name], 9080) for name in ("red/shop-v1", "red/shop-v2"))
    assert endpoints(plan, bindings, plan.services["red/proxy"]) == (
        ("bigip", IPv4Address("10.4.0.201"), 3128),
        ("tinyproxy", bindings.addresses["tinyproxy", "internet"], 8888),
    )
    dns = endpoints(plan, bindings, plan.services["kube-system/kube-dns"])
    assert dns == (("kube-system/kube-dns", bindings.pods["kube-system/kube-dns"], 53),)


def test_who_asks_for_which_certificate() -> None:
    """Injected pods ask for the mesh's identity, the proxy for one per virtual server, sites for a public one."""
    assert plan_of().requests == (
        Request("red/client", "mesh", ("spiffe://cluster.local/ns/red/sa/default",)),
        Request("red/shop-v1", "mesh", ("spiffe://cluster.local/ns/red/sa/default",)),
        Request("red/shop-v2", "mesh", ("spiffe://cluster.local/ns/red/sa/default",)),
        Request("blue/client", "mesh", ("spiffe://cluster.local/ns/blue/sa/default",)),
        Request("bigip/exit", "mesh", ("spiffe://cluster.local/ns/red/sa/default",)),
        Request("site.example", "public", (), ("site.example",)),
    )


def test_certificates_that_are_not_the_meshs_own() -> None:
    """A workload may have another identity or another issuer, a proxy its SPIFFE ID as a DNS name."""
    text = LAB.replace(
        "  blue:\n    inject: true\n    workloads:\n      client: {runs: client}",
        "  blue:\n    workloads:\n      bare: {runs: client}\n      client: {runs: client, inject: true, "
        "certificate: {issuer: foreign, identity: spiffe://cluster.local/ns/red/sa/default}}",
    ).replace('exit: {listen: "10.4.0.201:3128",', 'exit: {listen: "10.4.0.201:3128", identity_as: dns,')
    found = {request.name: request for request in plan_of(text).requests}
    assert found["blue/client"] == Request(
        "blue/client", "foreign", ("spiffe://cluster.local/ns/red/sa/default",)
    )
    assert found["bigip/exit"].dns == ("spiffe://cluster.local/ns/red/sa/default",)
    assert "blue/bare" not in found


def test_without_a_mesh_no_pod_asks_for_a_certificate() -> None:
    """Where the mesh's provider is none, pods have neither sidecar nor certificate."""
    text = LAB.replace("{provider: builtin}", "{provider: none}").replace("inject: true", "inject: false")
    plan = plan_of(
        text.replace("tls: mutual,", "").replace(
            "          server_identity: spiffe://cluster.local/ns/red/sa/default}\noutside", "}\noutside"
        )
    )
    assert plan.of_kind("sidecar") == ()
    assert {request.name for request in plan.requests} == {"bigip/exit", "site.example"}


def test_a_lab_without_a_cluster_has_outside_nodes_only() -> None:
    """Cluster and pods are optional: a lab may be a site on a network."""
    plan = plan_of("lab: x\nnetworks: {n: {cidr: 10.0.0.0/24}}\noutside: {site: {kind: website, on: [n]}}\n")
    assert [node.name for node in plan.nodes] == ["site"]
    assert plan.services == {}
    bindings = fake.binding(plan)
    assert set(render(plan, bindings, pretended_certificates(plan))) == {"site"}


def test_identity_has_istios_form() -> None:
    """A pod's SPIFFE ID names trust domain, namespace and service account."""
    plan = plan_of(
        LAB.replace("{provider: builtin}", "{provider: builtin, trust_domain: example.org}").replace(
            "client: {runs: client}\n      shop", "client: {runs: client, service_account: buyer}\n      shop"
        )
    )
    pod = plan.node("red/client").pod
    assert pod is not None
    assert spiffe_id(plan, pod) == "spiffe://example.org/ns/red/sa/buyer"


def test_a_plan_is_pure_and_frozen() -> None:
    """The same lab gives an equal plan each time, and nobody can change it afterwards."""
    plan = plan_of()
    assert plan == plan_of() == make_plan(plan.lab)
    with pytest.raises(FrozenInstanceError):
        plan.nodes = ()  # type: ignore[misc]


def test_an_unknown_node_is_a_key_error() -> None:
    """Asking a plan for a node that it does not have names the node."""
    with pytest.raises(KeyError, match="nobody"):
        plan_of().node("nobody")


def test_a_node_is_seen_by_every_address_it_has() -> None:
    """A pod has one address; a node on several networks one in each, the last of which is called its own."""
    plan = plan_of()
    bindings = fake.binding(plan)
    bigip, pod = plan.node("bigip"), plan.node("red/client")
    assert bindings.all_addresses(bigip) == (
        bindings.addresses["bigip", "nodes"],
        bindings.addresses["bigip", "dmz"],
    )
    assert bindings.address(bigip) == bindings.addresses["bigip", "dmz"]
    assert bindings.all_addresses(pod) == (bindings.pods["red/client"],) == (bindings.address(pod),)
    assert bindings.folder("red/client") == f"{bindings.directory}/nodes/red/client"


def test_kinds_of_a_node_are_merged_in_order() -> None:
    """What a node's kinds contribute is put together in the order of the kinds, the later one's extras winning."""
    first = Runtime(
        (Program("a", ("a",)),), (File("a", ""),), (("k", "1"),), "a\n", (IPv4Address(1),), {"x": "1"}
    )
    second = Runtime(
        (Program("b", ("b",)),), (File("b", ""),), (("k", "2"),), "b\n", (IPv4Address(2),), {"x": "2"}
    )
    merged = first.merged(second)
    assert [program.name for program in merged.programs] == ["a", "b"]
    assert [file.path for file in merged.files] == ["a", "b"]
    assert merged.sysctls == (("k", "1"), ("k", "2"))
    assert merged.rules == "a\nb\n"
    assert merged.addresses == (IPv4Address(1), IPv4Address(2))
    assert merged.extra == {"x": "2"}


def test_every_program_of_a_node_has_a_name_of_its_own() -> None:
    """`logs -c` and `exec -c` tell a node's programs apart by name; files of a node never overwrite each other."""
    plan = plan_of()
    for node, runtime in render(plan, fake.binding(plan), pretended_certificates(plan)).items():
        names = [program.name for program in runtime.programs]
        paths = [file.path for file in runtime.files]
        assert len(set(names)) == len(names), node
        assert len(set(paths)) == len(paths), node
        assert not any(path.startswith("/") or ".." in path for path in paths), node


@pytest.mark.parametrize(
    ("name", "counter"), [("red", "snat_red"), ("red-2", "snat_red_2"), ("a.b-c", "snat_a_b_c")]
)
def test_counters_have_names_that_nftables_takes(name: str, counter: str) -> None:
    """Hyphens and dots of a lab's names become underscores in a counter's."""
    assert counter_name("snat", name) == counter
