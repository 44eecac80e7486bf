"""The mesh's Envoys that are no sidecars: egress gateways, and hosts of the mesh outside."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from small_tenants import Rendered, written

from harness import mtls
from harness.errors import InputError
from harness.evidence import Attempt, Evidence, Recorded, Sighting
from harness.identity import Request
from harness.lab import load_lab, pods
from harness.nodes import egress_gateway, mesh_host
from harness.passport import Passport, join
from harness.plan import Ready
from harness.programs.fivetuple import TCP, FiveTuple
from harness.programs.probe import Outcome
from harness.proxy import authorization
from harness.scenario import load_scenarios
from harness.scenario_names import words_of
from harness.shipped import find_lab, scenario_paths

if TYPE_CHECKING:
    from pathlib import Path

SLEEP = "spiffe://cluster.local/ns/trusted/sa/sleep"
LAB = """\
lab: envoys
networks: {nodes: {cidr: 172.19.0.0/24}}
cluster: {nodes: [agent-0, gateway-0], pools: {default: {cidr: 10.53.0.0/16}}, services_cidr: 10.235.0.0/16}
mesh: {provider: builtin}
namespaces:
  trusted:
    inject: true
    workloads:
      sleep: {runs: client, service_account: sleep}
      gateway:
        runs: egress-gateway
        port: 9000
        node: gateway-0
        egress: {forward_to: capitals:9001, allow: [spiffe://cluster.local/ns/trusted/sa/sleep]}
services:
  gateway: {namespace: trusted, port: 9000, selector: gateway, tls: mutual,
            server_identity: spiffe://cluster.local/ns/trusted/sa/default}
outside:
  capitals: {kind: echo, on: [nodes], port: 9001}
  member: {kind: mesh-host, on: [nodes], port: 9002, identity: spiffe://cluster.local/ns/trusted/sa/member}
"""
GATEWAY, MEMBER = "trusted/gateway", "member"


@cache
def lab() -> Rendered:
    """Return the lab with every node's runtime."""
    return Rendered(LAB)


def listening(node: str) -> list[tuple[str, int]]:
    """Return the sockets that a node's Envoy listens on, as its configuration says."""
    listeners = lab().json(node, "envoy.json")["static_resources"]["listeners"]
    found = [one["address"]["socket_address"] for one in listeners if "address" in one]
    return [(one["address"], one["port_value"]) for one in found]


def next_hop(node: str) -> list[tuple[str, int]]:
    """Return the sockets that a node's Envoy goes on to."""
    clusters = lab().json(node, "envoy.json")["static_resources"]["clusters"]
    endpoints = [one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"] for one in clusters]
    found = [one["address"]["socket_address"] for one in endpoints if "socket_address" in one["address"]]
    return [(one["address"], one["port_value"]) for one in found]


def test_a_gateway_has_no_sidecar_and_a_certificate_of_its_own() -> None:
    """In a namespace with injection, too: it is an Envoy itself, with its service account's identity."""
    node = lab().plan.node(GATEWAY)
    assert node.kinds == ("workload", "egress-gateway")
    assert {pod.name: pod.injected for pod in pods(lab().plan.lab)} == {"trusted/sleep": True, GATEWAY: False}
    assert Request(GATEWAY, uris=("spiffe://cluster.local/ns/trusted/sa/default",)) in lab().plan.requests


def test_a_gateway_runs_envoy_and_nothing_else() -> None:
    """Its one program listens on the pod's address and goes on to the node that the lab file names."""
    assert [program.name for program in lab().runtimes[GATEWAY].programs] == ["envoy"]
    assert lab().program(GATEWAY, "envoy").ready.by == "admin"
    bindings, plan = lab().bindings, lab().plan
    assert listening(GATEWAY) == [(str(bindings.pods[GATEWAY]), 9000)]
    assert next_hop(GATEWAY) == [(str(bindings.address(plan.node("capitals"))), 9001)]
    assert egress_gateway.listeners(plan.node(GATEWAY), bindings) == (f"{bindings.pods[GATEWAY]}:9000",)


def test_sidecars_reach_a_gateway_by_its_name_and_identity() -> None:
    """Its service has the pod as endpoint, mutual TLS, and the SPIFFE ID that the server must have."""
    clusters = lab().json("trusted/sleep", "envoy.json")["static_resources"]["clusters"]
    cluster = next(one for one in clusters if one["name"] == "trusted/gateway")
    said = json.dumps(cluster)
    assert str(lab().bindings.pods[GATEWAY]) in said
    assert "spiffe://cluster.local/ns/trusted/sa/default" in said
    assert mtls.accepts(lab().plan.node("trusted/sleep"), lab().plan) == "permissive"


def test_a_mesh_host_has_its_server_on_loopback_only() -> None:
    """Envoy is on the host's address, the server on the same port of 127.0.0.1, where Envoy goes on to."""
    bindings, plan = lab().bindings, lab().plan
    address = str(bindings.address(plan.node(MEMBER)))
    assert listening(MEMBER) == [(address, 9002)]
    assert next_hop(MEMBER) == [("127.0.0.1", 9002)]
    assert lab().json(MEMBER, "echo.json") == {"name": MEMBER, "listen": "127.0.0.1:9002"}
    assert [program.name for program in lab().runtimes[MEMBER].programs] == ["envoy", "server"]
    assert lab().program(MEMBER, "server").ready == Ready("log", '"ready"')
    assert Request(MEMBER, uris=("spiffe://cluster.local/ns/trusted/sa/member",)) in plan.requests
    assert mesh_host.listeners(plan.node(MEMBER), bindings) == (f"{address}:9002",)


@pytest.mark.parametrize("node", [GATEWAY, MEMBER])
def test_both_demand_a_certificate(node: str) -> None:
    """No listener of the mesh's Envoys serves a client without one."""
    said = json.dumps(lab().json(node, "envoy.json"))
    assert said.count('"require_client_certificate": true') == 1
    assert '"require_client_certificate": false' not in said


def test_without_a_policy_every_identity_passes_and_an_empty_one_lets_nobody_pass() -> None:
    """As Istio's ALLOW: no AuthorizationPolicy is no restriction, and one without principals matches nobody."""
    name, rules = authorization(None)
    assert name == "any-identity"
    assert [rule.permit for rule in rules] == [True]
    assert authorization(()) == ("authorization-policy", ())
    _, rules = authorization((SLEEP, SLEEP + "er"))
    assert [(rule.permit, rule.spiffe_id, rule.spiffe_prefix) for rule in rules] == [
        (True, SLEEP, None),
        (True, SLEEP + "er", None),
    ]


def test_what_a_scenario_may_name() -> None:
    """`by` takes a gateway's and a host's deciders, a path the server within the host, a source a cluster node."""
    words = words_of(lab().plan.lab)
    assert words.rules(GATEWAY) == ("authorization-policy", "client-certificate")
    assert words.rules(MEMBER) == ("any-identity", "client-certificate")
    assert words.rules("trusted/sleep") == ()
    assert "member/server" in words.hops
    assert {"agent-0", "gateway-0"} <= set(words.origins)


DENIED = """\
lab: lab.yaml
scenarios:
  - name: straight
    from: trusted/sleep
    to: tcp://capitals:9001
    expect: {allowed: {path: [capitals]}}
  - name: denied
    from: trusted/sleep
    to: tcp://gateway:9000
    control: straight
    expect: {rejected: {at: trusted/gateway, by: RULE}}
"""


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("authorization-policy", "the control 'straight' never reaches 'trusted/gateway'"),
        ("authorisation-policy", "unknown rule 'authorisation-policy' of 'trusted/gateway'"),
    ],
)
def test_a_denial_by_a_gateway_is_checked_like_a_proxys(rule: str, complaint: str, tmp_path: Path) -> None:
    """Its control has to pass the gateway, and its rule has to be one of the gateway's."""
    with pytest.raises(InputError, match=complaint):
        written(tmp_path, LAB, DENIED.replace("RULE", rule))


def test_the_log_of_envoy_and_the_servers_are_hops_of_their_own() -> None:
    """Envoy's decision is the host's; what the server accepted is told of the server within it."""
    node = lab().plan.node(MEMBER)
    line = {
        "type": "inner TcpConnectionEnd",
        "conn": "3",
        "peer": "172.19.0.2:40000",
        "local": "172.19.0.9:9002",
        "decision": "permit 0",
        "policy": "any-identity",
        "names": SLEEP,
        "upstream_local": "127.0.0.1:50000",
        "upstream_remote": "127.0.0.1:9002",
    }
    said = list(mesh_host.read_log(node, "envoy", [(7, json.dumps(line))]))
    assert {sighting.at for sighting in said} == {MEMBER}
    assert said[0].facts["verdict"] == "PERMITTED"
    assert said[-1].onward == FiveTuple(TCP, "127.0.0.1", 50000, "127.0.0.1", 9002)
    accepted = '{"event": "accept", "conn": 1, "peer": "127.0.0.1:50000", "local": "127.0.0.1:9002"}'
    (seen,) = mesh_host.read_log(node, "server", [(8, accepted), (9, '{"event": "ready"}')])
    assert (seen.at, seen.event, seen.flow) == ("member/server", "accept", said[-1].onward)


def passport_of(*sightings: Sighting) -> Passport:
    """Return the passport of a probe from trusted/sleep to the gateway's service, with nothing of its own seen."""
    return join(attempt(), recorded(*sightings), lab().plan, lab().bindings)


def attempt() -> Attempt:
    """Return a probe that was sent at 100 ns."""
    item = load_scenarios(scenario_paths("three-ways")[0], load_lab(find_lab("three-ways")))[0]
    ends = "10.53.0.1:40000", "10.235.0.2:9000"
    outcome = Outcome(0, "connected", "connect", "", *ends, None, None, (), b"", 100, 900)
    return Attempt(item, "trusted/sleep", 100, 900, outcome=outcome)


def recorded(*sightings: Sighting) -> Recorded:
    """Return recordings of nothing but these sightings."""
    return Recorded({}, sightings, (), {}, {}, (), {})


def test_a_gateways_connection_that_nobody_accounts_for_is_a_stray_wherever_it_is_seen() -> None:
    """From the pod's address, and behind the translation of its node as whose it is seen further on."""
    pod, node = str(lab().bindings.pods[GATEWAY]), str(lab().bindings.address(lab().plan.node("gateway-0")))
    own = FiveTuple(TCP, pod, 50000, "172.19.0.8", 9001)
    translated = FiveTuple(TCP, node, 50000, "172.19.0.8", 9001)
    dialled = Sighting("gateway-0", "conntrack", "new", 200, own, translated)
    arrived = Sighting("capitals", "tap", "opening", 300, translated)
    assert {stray.at for stray in passport_of(dialled, arrived).strays} == {"gateway-0", "capitals"}
    log = Sighting(GATEWAY, "log", "close", 400, FiveTuple(TCP, "10.53.0.9", 1, pod, 9000), own)
    assert passport_of(dialled, arrived, log).strays == ()


def test_a_mesh_hosts_connection_to_its_server_that_nobody_accounts_for_is_a_stray() -> None:
    """Its Envoy's log accounts for it, or it counts against every denial; other nodes' loopback does not."""
    inner = FiveTuple(TCP, "127.0.0.1", 50000, "127.0.0.1", 9002)
    accepted = Sighting("member/server", "log", "accept", 300, inner)
    assert passport_of(accepted).strays == (accepted,)
    assert passport_of(replace(accepted, at="capitals")).strays == ()
    outer = FiveTuple(TCP, "172.19.0.2", 40000, "172.19.0.9", 9002)
    log = Sighting(MEMBER, "log", "close", 400, outer, inner)
    assert passport_of(accepted, log).strays == ()


def test_what_a_host_lost_its_server_has_lost_too() -> None:
    """A hop within a node is as blind as the node."""
    blind = replace(recorded(), blind=("member.nodes",), lost={"member log": "lines"})
    evidence = Evidence(lab().plan, lab().bindings, attempt(), blind)
    assert evidence.place_of("member/server") == MEMBER
    assert evidence.place_of(GATEWAY) == GATEWAY
    assert evidence.lost_at("member/server") == "the tap member.nodes is blind"
