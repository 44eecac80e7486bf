"""What each kind of node outside the cluster runs and holds, as data; the form that every kind has."""

from __future__ import annotations

from typing import Any

import pytest
from small_tenants import LAB, Rendered, pretended_certificates

from harness import lookup
from harness.nodes import egress_proxy, firewall, forward_proxy, workload
from harness.plan import Node, Ready, Runtime


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Return the lab of two tenants, rendered once."""
    return Rendered()


def test_keys_are_for_their_owner_only(rendered: Rendered) -> None:
    """Every file with a private key is written with mode 0600."""
    files = [file for runtime in rendered.runtimes.values() for file in runtime.files]
    assert {file.path: file.mode for file in files if "key of" in file.content} == {
        "certs/key.pem": 0o600,
        "exit.pem": 0o600,
        "site.key": 0o600,
    }


def test_egress_proxy_config(rendered: Rendered) -> None:
    """The proxy is told its listeners with certificates and trust, its policies, its next hop and what to bind."""
    folder, bindings = rendered.bindings.folder("bigip"), rendered.bindings
    config = rendered.json("bigip", "egress_proxy.json")
    assert config["policies"] == {
        "red-only": [{"action": "permit", "spiffe_prefix": "spiffe://cluster.local/ns/red/"}]
    }
    assert config["virtual_servers"] == [
        {
            "name": "exit",
            "listen": "10.4.0.201:3128",
            "certificate": f"{folder}/exit.pem",
            "key": f"{folder}/exit.pem",
            "trust": f"{folder}/trust.pem",
            "client_certificate": "require",
            "policy": "red-only",
            "forward_to": f"{bindings.addresses['tinyproxy', 'internet']}:8888",
            "bind": str(bindings.inside["bigip", "red"]),
        }
    ]
    assert rendered.files("bigip")["exit.pem"] == "chain of bigip/exitkey of bigip/exit"


def test_egress_proxy_holds_its_addresses(rendered: Rendered) -> None:
    """The proxy's node has the addresses of its virtual servers, of its pools, and the inside ones."""
    held = [str(address) for address in rendered.runtimes["bigip"].addresses]
    assert held == ["10.4.0.201", "10.4.0.211", str(rendered.bindings.inside["bigip", "red"])]


def test_snat_counts_and_spreads() -> None:
    """What leaves from a tenant's inside address is counted and gets the pool's address, of several each in turn."""
    one = Rendered()
    inside = one.bindings.inside["bigip", "red"]
    assert f"ip saddr {inside} counter name snat_red snat to 10.4.0.211\n" in one.runtimes["bigip"].rules
    two = Rendered(
        LAB.replace("snat_pools: {red: 10.4.0.211}", "snat_pools: {red: [10.4.0.211, 10.4.0.212]}")
    )
    spread = "snat to numgen inc mod 2 map { 0 : 10.4.0.211, 1 : 10.4.0.212 }"
    assert spread in two.runtimes["bigip"].rules


def test_without_snat_the_proxy_binds_nothing() -> None:
    """A virtual server without a pool lets the kernel choose the address that it leaves from."""
    found = Rendered(LAB.replace(", snat: {pool: red}}", "}"))
    assert found.json("bigip", "egress_proxy.json")["virtual_servers"][0]["bind"] is None


def test_rules_of_a_policy_keep_their_order() -> None:
    """First match decides, hence the order of the file is the order of the configuration."""
    policy = "[{reject: {spiffe_id: spiffe://cluster.local/ns/red/sa/bad}}, {permit: {spiffe_prefix: spiffe://cluster.local/ns/red/}}]"
    found = Rendered(LAB.replace("[{permit: {spiffe_prefix: spiffe://cluster.local/ns/red/}}]", policy))
    assert found.json("bigip", "egress_proxy.json")["policies"]["red-only"] == [
        {"action": "reject", "spiffe_id": "spiffe://cluster.local/ns/red/sa/bad"},
        {"action": "permit", "spiffe_prefix": "spiffe://cluster.local/ns/red/"},
    ]


def test_firewall_logs_and_counts_every_decision(rendered: Rendered) -> None:
    """Each rule and the default count and log new flows under the rule's name; nothing else passes."""
    rules = rendered.runtimes["firewall"].rules
    tinyproxy = rendered.bindings.addresses["tinyproxy", "internet"]
    assert "policy drop;" in rules
    assert (
        f"    ip saddr {{ 10.4.0.211 }} ip daddr {{ {tinyproxy} }} tcp dport 8888 ct state new "
        'counter name rule_proxy_out log prefix "allow proxy-out" group 5 accept\n'
    ) in rules
    assert rules.rstrip().splitlines()[-3].split() == (
        ["counter", "name", "default", "log", "prefix", '"drop', 'default"', "group", "5", "drop"]
    )


def test_firewall_rules_of_each_form() -> None:
    """A rule's ends are pools, nodes (every address) or networks, or nothing; a denial is a drop."""
    rules = (
        "[{name: nets, from: nodes, to: internet, allow: false}, {name: host, from: bigip, allow: true}, "
        "{name: anything, port: 53, allow: true}]"
    )
    found = Rendered(
        LAB.replace("[{name: proxy-out, from: snat/red, to: tinyproxy, port: 8888, allow: true}]", rules)
    )
    lines = [line.strip() for line in found.runtimes["firewall"].rules.splitlines() if "log prefix" in line]
    both = ", ".join(str(found.bindings.addresses["bigip", network]) for network in ("nodes", "dmz"))
    assert lines[0].startswith("ip saddr { 172.19.0.0/24 } ip daddr { 198.51.100.0/24 } ct state new")
    assert lines[0].endswith('log prefix "drop nets" group 5 drop')
    assert lines[1].startswith(f"ip saddr {{ {both} }} ct state new")
    assert lines[2].startswith("tcp dport 53 ct state new")


def test_the_longest_rule_name_fits_a_log_prefix() -> None:
    """The kernel cuts prefixes at 127 characters; the longest name that a lab file may have fits with its word."""
    assert len("reject " + "x" * 63) < 127
    assert firewall.NFLOG_GROUP == 5


def test_forward_proxy_config(rendered: Rendered) -> None:
    """The proxy stays in the foreground, listens on its port and tunnels to the ports that it is told only."""
    assert rendered.files("tinyproxy")["tinyproxy.conf"].splitlines() == [
        "Port 8888",
        "Timeout 60",
        "MaxClients 200",
        "LogLevel Info",
        "ConnectPort 443",
    ]
    program = rendered.program("tinyproxy", "tinyproxy")
    assert program.argv[:2] == ("tinyproxy", "-d")
    assert program.ready == Ready("listens", "8888")


def test_site_with_and_without_a_certificate(rendered: Rendered) -> None:
    """A public site answers on 443 with its certificate and on 80; one without has the latter only."""
    listen = rendered.json("site.example", "website.json")["listen"]
    assert [entry["address"] for entry in listen] == ["0.0.0.0:80", "0.0.0.0:443"]
    plain = Rendered(
        LAB.replace("{kind: website, on: {internet: {}}}", "{kind: website, tls: none, on: {internet: {}}}")
    )
    assert plain.json("site.example", "website.json")["listen"] == [{"address": "0.0.0.0:80"}]
    assert set(plain.files("site.example")) == {"website.json"}


@pytest.mark.parametrize("module", [workload, egress_proxy, firewall, forward_proxy])
def test_a_kind_refuses_a_node_of_another(module: Any, rendered: Rendered) -> None:
    """A kind that is asked to furnish a node that is not its own raises TypeError with the node's name."""
    stranger = Node("stranger", (), "outside")
    with pytest.raises(TypeError, match="stranger"):
        module.render(stranger, rendered.plan, rendered.bindings, pretended_certificates(rendered.plan))


@pytest.mark.parametrize("kind", lookup.names("nodes"))
def test_every_kind_has_the_form_of_a_plug(kind: str) -> None:
    """Each kind says whether it forwards, and renders to a Runtime."""
    module = lookup.find("nodes", kind)
    assert isinstance(module.FORWARDS, bool)
    assert module.render.__annotations__["return"] == Runtime.__name__
