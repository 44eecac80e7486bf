"""What pods and cluster nodes run and hold, as data: programs, files, sysctls and rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_tenants import LAB, Rendered, plan_of, pretended_certificates

from harness.drivers import fake
from harness.lab import Service
from harness.nodes import cluster_node, sidecar
from harness.plan import Node, Ready


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Return the lab of two tenants, rendered once."""
    return Rendered()


def test_clients_idle(rendered: Rendered) -> None:
    """A client's container runs nothing of its own, and holds its certificate when it has one."""
    assert rendered.program("red/client", "app").argv == ("sleep", "infinity")
    assert set(rendered.files("red/client")) == {
        "etc/resolv.conf",
        "certs/cert-chain.pem",
        "certs/key.pem",
        "certs/root-cert.pem",
        "envoy.json",
    }
    assert rendered.files("red/client")["certs/root-cert.pem"] == "root of mesh"


def test_servers_listen_on_their_port(rendered: Rendered) -> None:
    """An http workload answers on its port and says which version it is."""
    assert rendered.json("red/shop-v2", "app.json") == {
        "name": "shop",
        "version": "v2",
        "listen": [{"address": "0.0.0.0:9080"}],
    }
    program = rendered.program("red/shop-v2", "app")
    assert program.argv[-1] == f"{rendered.bindings.folder('red/shop-v2')}/app.json"
    assert program.ready == Ready("log", '"ready"')


def test_sidecar_intercepts_all_but_its_own(rendered: Rendered) -> None:
    """The pod's TCP is redirected to Envoy, except what carries Envoy's mark and what stays on loopback."""
    rules = rendered.runtimes["red/client"].rules
    output = rules[rules.index("chain output") : rules.index("chain prerouting")]
    order = ["meta mark 1337 return", "ip daddr 127.0.0.0/8 return", "meta l4proto tcp redirect to :15001"]
    assert [output.index(line) for line in order] == sorted(output.index(line) for line in order)
    assert 'iifname "eth0" meta l4proto tcp redirect to :15006' in rules
    assert "tcp dport { 15001, 15006 } ct status & dnat == 0 reject with tcp reset" in rules


def envoy(rendered: Rendered, pod: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Envoy's listeners and clusters by name."""
    resources = rendered.json(pod, "envoy.json")["static_resources"]
    listeners = {listener["name"]: listener for listener in resources["listeners"]}
    return listeners, {cluster["name"]: cluster for cluster in resources["clusters"]}


def test_sidecar_has_a_chain_for_each_service(rendered: Rendered) -> None:
    """Outbound traffic to a ClusterIP goes to the service's cluster, all else through; DNS has no chain."""
    listeners, clusters = envoy(rendered, "blue/client")
    chains = {chain["name"]: chain["filter_chain_match"] for chain in listeners["outbound"]["filter_chains"]}
    assert chains == {
        f"outbound {name}": {
            "prefix_ranges": [{"address_prefix": str(rendered.bindings.cluster_ips[name]), "prefix_len": 32}],
            "destination_port": port,
        }
        for name, port in (("red/proxy", 3128), ("red/shop", 9080))
    }
    assert set(clusters) == {"passthrough", "inbound", "red/proxy", "red/shop"}
    assert listeners["outbound"]["default_filter_chain"]["name"] == "outbound passthrough"


def test_every_connection_of_a_sidecar_is_logged(rendered: Rendered) -> None:
    """Each filter chain, the default ones too, writes an access log: no flow passes unseen."""
    listeners, _ = envoy(rendered, "red/client")
    chains = [chain for listener in listeners.values() for chain in listener["filter_chains"]]
    chains += [
        listener["default_filter_chain"]
        for listener in listeners.values()
        if "default_filter_chain" in listener
    ]
    assert len(chains) == 5
    for chain in chains:
        (proxy,) = chain["filters"]
        assert proxy["typed_config"]["access_log"], chain["name"]


def test_sidecar_demands_the_servers_identity(rendered: Rendered) -> None:
    """A service with a server identity is reached by mutual TLS, and only a URI name equal to it will do."""
    _, clusters = envoy(rendered, "blue/client")
    context = clusters["red/proxy"]["transport_socket"]["typed_config"]
    matchers = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert matchers == [{"san_type": "URI", "matcher": {"exact": "spiffe://cluster.local/ns/red/sa/default"}}]
    assert context["sni"] == "outbound_.3128_._.proxy.red.svc.cluster.local"


def test_services_in_the_mesh_are_reached_by_mtls(rendered: Rendered) -> None:
    """Endpoints that have a sidecar themselves are reached by mTLS with the identities of their pods."""
    _, clusters = envoy(rendered, "blue/client")
    context = clusters["red/shop"]["transport_socket"]["typed_config"]["common_tls_context"]
    (matcher,) = context["validation_context"]["match_typed_subject_alt_names"]
    assert matcher["matcher"] == {"exact": "spiffe://cluster.local/ns/red/sa/default"}
    plain = Rendered(LAB.replace("{runs: http, port: 9080,", "{runs: http, port: 9080, inject: false,"))
    assert "transport_socket" not in envoy(plain, "blue/client")[1]["red/shop"]


@pytest.mark.parametrize(
    ("mtls", "chains"),
    [
        ("{default: strict}", ["inbound tls"]),
        ("{default: permissive}", ["inbound tls", "inbound plain"]),
        ("{default: disable}", []),
        ("{default: strict, overrides: {red: permissive}}", ["inbound tls", "inbound plain"]),
        ("{default: strict, overrides: {red: disable, red/client: strict}}", ["inbound tls"]),
    ],
)
def test_what_a_sidecar_accepts(mtls: str, chains: list[str]) -> None:
    """Under strict it accepts TLS only, permissive plain text too, disable anything; the nearest override wins."""
    found = Rendered(LAB.replace("{provider: builtin}", f"{{provider: builtin, mtls: {mtls}}}"))
    inbound = envoy(found, "red/client")[0]["inbound"]
    assert [chain["name"] for chain in inbound["filter_chains"]] == chains
    assert ("default_filter_chain" in inbound) == (not chains)


def test_nothing_plain_passes_a_strict_sidecar() -> None:
    """Under strict there is no chain that plain text could match, and none by default."""
    found = Rendered(LAB.replace("{provider: builtin}", "{provider: builtin, mtls: {default: strict}}"))
    inbound = envoy(found, "red/client")[0]["inbound"]
    assert [chain["filter_chain_match"] for chain in inbound["filter_chains"]] == [
        {"transport_protocol": "tls"}
    ]
    assert (
        inbound["filter_chains"][0]["transport_socket"]["typed_config"]["require_client_certificate"] is True
    )


def test_envoys_own_sockets_carry_the_mark(rendered: Rendered) -> None:
    """Every upstream socket of Envoy has the mark that interception lets pass."""
    manager = rendered.json("red/client", "envoy.json")["cluster_manager"]
    (option,) = manager["upstream_bind_config"]["socket_options"]
    assert (option["level"], option["name"], option["int_value"]) == (1, 36, sidecar.MARK)


def test_dns_answers_for_services_and_outside_nodes(rendered: Rendered) -> None:
    """Each service has its Kubernetes name, each node outside its own; all else does not exist."""
    lines = rendered.files("kube-system/kube-dns")["dnsmasq.conf"].splitlines()
    records = {line for line in lines if line.startswith("host-record=")}
    ips, addresses = rendered.bindings.cluster_ips, rendered.bindings.addresses
    assert records == {
        f"host-record=proxy.red.svc.cluster.local,{ips['red/proxy']}",
        f"host-record=shop.red.svc.cluster.local,{ips['red/shop']}",
        f"host-record=kube-dns.kube-system.svc.cluster.local,{ips['kube-system/kube-dns']}",
        f"host-record=bigip,{addresses['bigip', 'dmz']}",
        f"host-record=firewall,{addresses['firewall', 'internet']}",
        f"host-record=tinyproxy,{addresses['tinyproxy', 'internet']}",
        f"host-record=site.example,{addresses['site.example', 'internet']}",
    }
    assert "local=/#/" in lines


def test_cluster_node_translates_services(rendered: Rendered) -> None:
    """A ClusterIP goes to its only endpoint, or to several in even shares; DNS by both protocols."""
    rules = rendered.runtimes["server-0"].rules
    ips, pods = rendered.bindings.cluster_ips, rendered.bindings.pods
    assert f"ip daddr {ips['red/proxy']} tcp dport 3128 dnat to 10.4.0.201:3128" in rules
    shop = ", ".join(f"{number} : {pods[f'red/shop-v{number + 1}']} . 9080" for number in range(2))
    assert (
        f"ip daddr {ips['red/shop']} tcp dport 9080 dnat ip to numgen random mod 2 map {{ {shop} }}" in rules
    )
    for protocol in ("udp", "tcp"):
        assert f"ip daddr {ips['kube-system/kube-dns']} {protocol} dport 53 dnat to" in rules


def test_a_service_without_endpoints_is_refused(rendered: Rendered) -> None:
    """A ClusterIP whose selector finds no pod is rejected, as kube-proxy does, and never translated."""
    nobody = Service(namespace="red", port=80, selector="nobody")
    plan = replace(rendered.plan, services={"red/nobody": nobody})
    bindings = fake.binding(plan)
    rules = cluster_node.render(plan.node("server-0"), plan, bindings, pretended_certificates(plan)).rules
    address = bindings.cluster_ips["red/nobody"]
    lines = [line.strip() for line in rules.splitlines() if str(address) in line]
    assert lines == [f"ip daddr {address} tcp dport 80 reject"]


def test_cluster_node_masquerades_what_leaves_the_pools(rendered: Rendered) -> None:
    """With natOutgoing a node hides its pods except towards other pools; a pool without it keeps its addresses."""
    rules = rendered.runtimes["server-0"].rules
    assert (
        "ip saddr { 10.53.0.0/16 } ip daddr != { 10.53.0.0/16 } counter name masqueraded masquerade" in rules
    )
    bare = Rendered(LAB.replace("{cidr: 10.53.0.0/16}", "{cidr: 10.53.0.0/16, nat_outgoing: false}"))
    assert "masquerade" not in bare.runtimes["server-0"].rules


def test_a_second_pool_is_no_destination_to_hide_from() -> None:
    """Traffic to any pool keeps its source, whichever of them masquerades (Calico, natOutgoing)."""
    pools = "{default: {cidr: 10.53.0.0/16}, lab: {cidr: 10.99.0.0/16, nat_outgoing: false}}"
    found = Rendered(LAB.replace("{default: {cidr: 10.53.0.0/16}}", pools))
    assert (
        "ip saddr { 10.53.0.0/16 } ip daddr != { 10.53.0.0/16, 10.99.0.0/16 }"
        in found.runtimes["server-0"].rules
    )


def test_bird_announces_own_blocks_and_waits_for_the_others(rendered: Rendered) -> None:
    """Each node's BIRD has its blocks as blackholes, every other node as peer, and is ready with all their routes."""
    bindings = rendered.bindings
    config = rendered.files("server-0")["bird.conf"]
    (own,), (other,) = bindings.blocks["server-0"], bindings.blocks["agent-0"]
    assert f"route {own} blackhole;" in config
    assert f"route {other} blackhole;" not in config
    assert f"neighbor {bindings.addresses['agent-0', 'nodes']} as 64512;" in config
    assert f"router id {bindings.addresses['server-0', 'nodes']};" in config
    program = rendered.program("server-0", "bird")
    assert program.first
    assert program.ready == Ready("routes", f"{bindings.folder('server-0')}/bird.ctl {other}")


def test_without_bgp_a_cluster_node_runs_nothing() -> None:
    """Without BGP, or without its mesh, routes are static and there is no routing daemon."""
    for text in (LAB.replace("  bgp: {}\n", ""), LAB.replace("bgp: {}", "bgp: {mesh: false}")):
        assert Rendered(text).runtimes["server-0"].programs == ()


def test_a_single_node_waits_for_no_route() -> None:
    """With nobody to learn from, BIRD is ready as soon as it runs."""
    found = Rendered(LAB.replace("[server-0, agent-0]", "[server-0]"))
    assert found.program("server-0", "bird").ready == Ready()


def test_a_cluster_node_needs_a_cluster(rendered: Rendered) -> None:
    """Without a cluster there is nothing for a cluster node to be."""
    lone = plan_of("lab: x\nnetworks: {n: {cidr: 10.0.0.0/24}}\n")
    with pytest.raises(ValueError, match="a cluster node needs a cluster"):
        cluster_node.render(
            Node("a", ("cluster-node",), "cluster-node"),
            lone,
            rendered.bindings,
            pretended_certificates(lone),
        )
