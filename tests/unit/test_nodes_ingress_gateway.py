"""The way in: what an ingress gateway runs and reads, how clients outside find it, and what its log comes to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tenants import LAB, Rendered, plan_of, pretended_certificates

from harness.address_names import entrances
from harness.agent.bind import bind
from harness.agent.lower import lower
from harness.identity import Request
from harness.nodes import ingress_gateway, workload
from harness.plan import Node, make_plan, render
from harness.programs.fivetuple import TCP, FiveTuple
from harness.steps import without

GATEWAY = "edge/gateway"
WITH_GATEWAY = LAB.replace(
    "namespaces:\n",
    "namespaces:\n  edge:\n    inject: true\n    workloads:\n"
    "      gateway: {runs: ingress-gateway, port: 80, service_account: way-in, node: agent-0}\n",
).replace(
    "outside:\n",
    "routes:\n  shop:\n    gateway: edge/gateway\n    hosts: [shop.example, www.shop.example]\n    to:\n"
    "      - {workload: red/shop, version: v1, weight: 80}\n"
    "      - {workload: red/shop, version: v2, weight: 20}\n"
    "outside:\n  visitor: {kind: client, on: [internet]}\n",
)
ARRIVED = FiveTuple(TCP, "198.51.100.3", 57070, "10.53.0.2", 80)
ONWARD = FiveTuple(TCP, "10.53.0.2", 50366, "10.53.0.129", 8080)

# From a lab that ran.
SERVED = (
    '{"details":"via_upstream","event":"request","failure":null,"flags":"-","host":"webapp.example.com",'
    '"local":"10.53.0.2:80","method":"GET","milliseconds":4,"path":"/","peer":"198.51.100.3:57070",'
    '"routes":"webapp web/webapp-v1=80,web/webapp-v2=20","server_identity":"spiffe://cluster.local/ns/web/sa/webapp",'
    '"status":200,"time":"1795281861566163000","tls":"TLSv1.3","token":null,"upstream":"web/webapp-v2",'
    '"upstream_local":"10.53.0.2:50366","upstream_remote":"10.53.0.129:8080"}'
)
NO_ROUTE = (
    '{"details":"route_not_found","event":"request","failure":null,"flags":"NR","host":"other.example.com",'
    '"local":"10.53.0.2:80","method":"GET","milliseconds":0,"path":"/","peer":"198.51.100.3:57070","routes":null,'
    '"server_identity":null,"status":404,"time":"1795281862663048000","tls":null,"token":null,"upstream":null,'
    '"upstream_local":null,"upstream_remote":null}'
)
ANSWERED = (
    '{"time": 1795281861946067487, "event": "request", "peer": "10.53.0.65:57320", "local": "10.53.0.65:8080", '
    '"method": "GET", "path": "/", "host": "webapp.example.com", "status": 200, "version": "v1", "tls": false, '
    '"user_agent": "curl/7.88.1", "token": null}'
)


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Return the lab of two tenants with a gateway before one of them."""
    return Rendered(WITH_GATEWAY)


def envoy(rendered: Rendered) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the connection manager of the gateway's listener, and its clusters by name."""
    resources = rendered.json(GATEWAY, "envoy.json")["static_resources"]
    (listener,) = resources["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 80
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager, {cluster["name"]: cluster for cluster in resources["clusters"]}


def test_a_gateway_is_one_envoy_with_an_identity_of_its_own(rendered: Rendered) -> None:
    """Even in a namespace with injection it gets no sidecar, and its certificate names its own service account."""
    node = rendered.plan.node(GATEWAY)
    assert node.kinds == ("workload", "ingress-gateway")
    assert [program.name for program in rendered.runtimes[GATEWAY].programs] == ["gateway"]
    assert rendered.runtimes[GATEWAY].rules == ""
    assert Request(GATEWAY, "mesh", ("spiffe://cluster.local/ns/edge/sa/way-in",)) in rendered.plan.requests
    assert rendered.plan.services[GATEWAY].port == 80


def test_each_destination_is_a_cluster_of_its_pods(rendered: Rendered) -> None:
    """A version's cluster holds that version's pod only, reached by mutual TLS, which must have its identity."""
    _, clusters = envoy(rendered)
    assert list(clusters) == ["red/shop-v1", "red/shop-v2"]
    for name, cluster in clusters.items():
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"] == {
            "address": str(rendered.bindings.pods[name]),
            "port_value": 9080,
        }
        tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        assert tls["validation_context"]["match_typed_subject_alt_names"] == [
            {"san_type": "URI", "matcher": {"exact": "spiffe://cluster.local/ns/red/sa/default"}}
        ]
        assert tls["tls_certificates"][0]["private_key"]["filename"].endswith("edge/gateway/certs/key.pem")


def test_pods_outside_the_mesh_are_reached_in_plain_text() -> None:
    """Where a workload has no sidecar, or its sidecar takes no TLS, the gateway sends none."""
    for edit in (
        ("versions: [v1, v2]", "versions: [v1, v2], inject: false"),
        ("{provider: builtin}", "{provider: builtin, mtls: {default: disable}}"),
    ):
        _, clusters = envoy(Rendered(WITH_GATEWAY.replace(*edit)))
        assert all("transport_socket" not in cluster for cluster in clusters.values())


def test_a_destination_without_a_version_is_every_pod_of_the_workload() -> None:
    """Its requests go to all versions in turn."""
    text = WITH_GATEWAY.replace(
        "      - {workload: red/shop, version: v1, weight: 80}\n", "      - {workload: red/shop}\n"
    ).replace("      - {workload: red/shop, version: v2, weight: 20}\n", "")
    _, clusters = envoy(Rendered(text))
    (cluster,) = clusters.values()
    assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2


def test_a_request_has_a_connection_of_its_own_on_either_side(rendered: Rendered) -> None:
    """No connection carries a second request, and none is tried again: a request is one chain of 5-tuples."""
    manager, clusters = envoy(rendered)
    assert manager["common_http_protocol_options"] == {"max_requests_per_connection": 1}
    for cluster in clusters.values():
        (options,) = cluster["typed_extension_protocol_options"].values()
        assert options["common_http_protocol_options"] == {"max_requests_per_connection": 1}
        assert cluster["connection_pool_per_downstream_connection"] is True
    assert "retry" not in json.dumps([manager, clusters, rendered.json(GATEWAY, "routes.json")])


def test_routes_are_a_file_that_envoy_watches(rendered: Rendered) -> None:
    """The weights stand in the file only, so that a change of them changes nothing else."""
    manager, _ = envoy(rendered)
    path = manager["rds"]["config_source"]["path_config_source"]["path"]
    assert path == f"{rendered.bindings.folder(GATEWAY)}/routes.json"
    found = rendered.json(GATEWAY, "routes.json")
    (host,) = found["resources"][0]["virtual_hosts"]
    assert host["domains"] == ["shop.example", "www.shop.example"]
    (route,) = host["routes"]
    assert route["name"] == "shop red/shop-v1=80,red/shop-v2=20"
    assert [(one["name"], one["weight"]) for one in route["route"]["weighted_clusters"]["clusters"]] == [
        ("red/shop-v1", 80),
        ("red/shop-v2", 20),
    ]
    swapped = WITH_GATEWAY.replace("weight: 80", "weight: 50").replace("weight: 20", "weight: 50")
    other = Rendered(swapped)
    assert other.files(GATEWAY)["envoy.json"] == rendered.files(GATEWAY)["envoy.json"]
    assert other.json(GATEWAY, "routes.json")["version_info"] != found["version_info"]


def test_outside_a_host_is_found_at_the_gateways_node(rendered: Rendered) -> None:
    """Each host of a route leads to the node that the gateway runs on, and only that node passes it on."""
    plan = plan_of(WITH_GATEWAY)
    bindings = bind(plan)
    node = bindings.addresses["agent-0", "nodes"]
    assert entrances(plan, bindings) == {"shop.example": node, "www.shop.example": node}
    layout = lower(plan, bindings, render(plan, bindings, pretended_certificates(plan)))
    assert f"{node} shop.example\n" in layout.hosts
    rules = rendered.runtimes["agent-0"].rules
    address, pod = rendered.bindings.addresses["agent-0", "nodes"], rendered.bindings.pods[GATEWAY]
    assert f"ip daddr {address} tcp dport 80 dnat to {pod}:80\n" in rules
    elsewhere = rendered.runtimes["server-0"].rules
    assert str(rendered.bindings.addresses["server-0", "nodes"]) not in elsewhere
    assert str(address) not in elsewhere


def test_a_gateway_or_version_that_is_deleted_leaves_a_plan() -> None:
    """Without its gateway a host is nowhere; without its pod a destination is a cluster that nobody is in."""
    plan = plan_of(WITH_GATEWAY)
    bindings = bind(plan)
    gone = make_plan(without(plan.lab, GATEWAY), plan)
    assert entrances(gone, bindings) == {}
    one_less = make_plan(without(plan.lab, "red/shop-v2"), plan)
    runtimes = render(one_less, bindings, pretended_certificates(one_less))
    (config,) = [file.content for file in runtimes[GATEWAY].files if file.path == "envoy.json"]
    empty = json.loads(config)["static_resources"]["clusters"][1]
    assert (empty["name"], empty["load_assignment"]["endpoints"]) == ("red/shop-v2", [{"lb_endpoints": []}])


def test_a_client_outside_runs_nothing(rendered: Rendered) -> None:
    """It is a node with an address, and waits for commands."""
    runtime = rendered.runtimes["visitor"]
    assert (runtime.programs, runtime.files, runtime.rules) == ((), (), "")


def test_a_line_of_the_gateways_log_joins_both_sides() -> None:
    """It has both 5-tuples, the weights that decided, who served, and the identity that the pod had."""
    (found,) = ingress_gateway.read_log(Node(GATEWAY, (), "pod"), "gateway", [(1, SERVED)])
    assert (found.flow, found.onward) == (ARRIVED, ONWARD)
    assert (found.event, found.witness, found.at) == ("request", "log", GATEWAY)
    assert found.facts == {
        "details": "via_upstream",
        "host": "webapp.example.com",
        "method": "GET",
        "path": "/",
        "routes": "webapp web/webapp-v1=80,web/webapp-v2=20",
        "status": "200",
        "upstream": "web/webapp-v2",
        "identity": "spiffe://cluster.local/ns/web/sa/webapp",
    }


def test_a_request_without_a_route_is_refused_by_the_gateway() -> None:
    """The line of a 404 of its own is a decision: a denial by `no-route`, with nothing onward."""
    (found,) = ingress_gateway.read_log(Node(GATEWAY, (), "pod"), "gateway", [(1, NO_ROUTE)])
    assert (found.event, found.flow, found.onward) == ("reject", ARRIVED, None)
    assert (found.facts["by"], found.facts["status"]) == ("no-route", "404")


@given(st.lists(st.text() | st.dictionaries(st.text(), st.integers() | st.text()).map(json.dumps)))
def test_lines_of_any_form_are_no_harm(lines: list[str]) -> None:
    """What is no line of the gateway's is no sighting, and no error."""
    numbered = list(enumerate(lines))
    assert not list(ingress_gateway.read_log(Node(GATEWAY, (), "pod"), "gateway", numbered))
    assert not list(ingress_gateway.read_log(Node(GATEWAY, (), "pod"), "other", [(1, SERVED)]))


def test_a_pod_logs_which_version_served(rendered: Rendered) -> None:
    """An http workload's own log is a witness of each request; a client has none to keep."""
    server, client = rendered.plan.node("red/shop-v1"), rendered.plan.node("red/client")
    (found,) = workload.read_log(server, "app", [(1, ANSWERED)])
    assert found.flow == FiveTuple(TCP, "10.53.0.65", 57320, "10.53.0.65", 8080)
    assert (found.at, found.facts["version"], found.facts["status"]) == ("red/shop-v1", "v1", "200")
    assert workload.keeps_log(server)
    assert not workload.keeps_log(client)
    assert not list(workload.read_log(client, "app", [(1, ANSWERED)]))
    assert not list(workload.read_log(server, "sidecar", [(1, ANSWERED)]))
