"""Each of these edits of the second article's labs must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import written
from small_lab import own_name, standing

from harness.comparison import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.live

ECHO, DATABASE, WAYS = "echo-without-envoy", "legacy-database", "three-ways"

OTHER = "spiffe://cluster.local/ns/default/sa/sleep"
"""Whom every way that asks for identities must refuse."""


@dataclass(frozen=True)
class Case:
    """An edit of a lab, the scenario that must notice, and what one of its reasons must say at which hop."""

    lab: str
    edit: Callable[[dict[str, Any]], None]
    scenario: str
    at: str
    says: str


def _permits(policy: str, prefix: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["outside"]["bigip"]["policies"][policy] = [{"permit": {"spiffe_prefix": prefix}}]

    return edit


def _fault(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["outside"]["bigip"]["fault"] = name

    return edit


def _no_snat(lab: dict[str, Any]) -> None:
    for server in lab["outside"]["bigip"]["virtual_servers"].values():
        del server["snat"]


def _optional_certificate(lab: dict[str, Any]) -> None:
    for server in lab["outside"]["bigip"]["virtual_servers"].values():
        server["client_certificate"] = "optional"


def _open_firewall(lab: dict[str, Any]) -> None:
    lab["outside"]["firewall"]["rules"].append({"name": "opened", "from": "nodes", "allow": True})


def _other_password(lab: dict[str, Any]) -> None:
    lab["outside"]["database"]["users"]["ledger"] = "changed"


def _no_rows(lab: dict[str, Any]) -> None:
    lab["outside"]["database"]["statements"].pop()


def _gateway_for_everyone(lab: dict[str, Any]) -> None:
    lab["namespaces"]["egress"]["workloads"]["checking-gateway"]["egress"]["allow"].append(OTHER)


def _mesh_host_for_everyone(lab: dict[str, Any]) -> None:
    lab["outside"]["mesh-host"]["allow"].append(OTHER)


def _no_way_to_the_mesh_host(lab: dict[str, Any]) -> None:
    rules = lab["outside"]["firewall"]["rules"]
    rules[:] = [rule for rule in rules if rule["to"] != "mesh-host"]


def _squatter_elsewhere(lab: dict[str, Any]) -> None:
    lab["namespaces"]["default"]["workloads"]["squatter"]["node"] = "agent-0"


def _every_node_for_the_gateway(lab: dict[str, Any]) -> None:
    for rule in lab["outside"]["firewall"]["rules"]:
        if rule["to"] == "gateway-echo":
            rule["from"] = "nodes"


CASES = {
    "echo-for-every-tenant": Case(
        ECHO,
        _permits("trusted-sleep", "spiffe://cluster.local/"),
        "the bad container says hi and gets nothing",
        "bigip",
        "PERMITTED by 'trusted-sleep'",
    ),
    "echo-for-every-account": Case(
        ECHO,
        _permits("trusted-sleep", "spiffe://cluster.local/ns/trusted/"),
        "the right namespace with another service account is rejected",
        "bigip",
        "PERMITTED by 'trusted-sleep'",
    ),
    "echo-without-snat": Case(
        ECHO,
        _no_snat,
        "the good container says hi and gets HI",
        "echo",
        "nothing; last seen at firewall",
    ),
    "echo-behind-an-open-firewall": Case(
        ECHO,
        _open_firewall,
        "a pod that goes round its sidecar does not reach the echo service",
        "firewall",
        "allow by 'opened'",
    ),
    "echo-dialled-for-the-rejected": Case(
        ECHO, _fault("reject-then-dial"), "the bad container says hi and gets nothing", "firewall", "opening"
    ),
    "database-for-the-whole-namespace": Case(
        DATABASE,
        _permits("ledger-only", "spiffe://cluster.local/ns/billing/"),
        "another service account of the namespace is reset by the proxy",
        "bigip",
        "PERMITTED by 'ledger-only'",
    ),
    "database-for-every-namespace": Case(
        DATABASE,
        _permits("ledger-only", "spiffe://cluster.local/"),
        "the same account in another namespace is reset by the proxy",
        "bigip",
        "PERMITTED by 'ledger-only'",
    ),
    "database-for-whoever-has-the-address": Case(
        DATABASE,
        _permits("ledger-only", "spiffe://cluster.local/ns/"),
        "a pod that took over the ledger's address is reset by the proxy",
        "bigip",
        "PERMITTED by 'ledger-only', identity spiffe://cluster.local/ns/shop/sa/thief",
    ),
    "database-without-certificates": Case(
        DATABASE,
        _optional_certificate,
        "the right namespace without a certificate is refused by the handshake",
        "bigip",
        "REJECTED by 'ledger-only'",
    ),
    "database-behind-an-open-firewall": Case(
        DATABASE,
        _open_firewall,
        "a pod that goes round its sidecar does not reach the database",
        "database",
        "opening",
    ),
    "database-dialled-for-the-rejected": Case(
        DATABASE,
        _fault("reject-then-dial-quietly"),
        "the same account in another namespace is reset by the proxy",
        "database",
        "which no record accounts for",
    ),
    "database-with-another-password": Case(
        DATABASE, _other_password, "the ledger reads a balance", "billing/ledger", "Access denied for user"
    ),
    "ways-checking-gateway-for-another-namespace": Case(
        WAYS,
        _gateway_for_everyone,
        "another namespace is rejected by the checking gateway",
        "egress/checking-gateway",
        "PERMITTED by 'authorization-policy'",
    ),
    "ways-firewall-knows-no-node": Case(
        WAYS,
        _every_node_for_the_gateway,
        "a pod without a sidecar does not reach the egress gateway's server",
        "firewall",
        "allow by 'gateway-node-to-echo'",
    ),
    "ways-nobody-else-on-the-gateways-node": Case(
        WAYS,
        _squatter_elsewhere,
        "a pod on the gateways' node reaches the egress gateway's server: the hole",
        "gateway-echo",
        "nothing; last seen at firewall",
    ),
    "ways-mesh-host-for-another-namespace": Case(
        WAYS,
        _mesh_host_for_everyone,
        "another namespace is rejected by the Envoy on the server's host",
        "mesh-host/server",
        "log: accept 127.0.0.1:",
    ),
    "ways-mesh-host-cut-off": Case(
        WAYS,
        _no_way_to_the_mesh_host,
        "the Envoy on the server's host lets the application pass",
        "mesh-host",
        "nothing; last seen at firewall",
    ),
    "ways-proxy-dials-for-the-rejected": Case(
        WAYS,
        _fault("reject-then-dial-quietly"),
        "another namespace is rejected by the external proxy",
        "proxy-echo",
        "which no record accounts for",
    ),
    "database-without-rows": Case(
        DATABASE, _no_rows, "the ledger reads a balance", "billing/ledger", "the client shows 'Grace'"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken in every case that it has, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written(case.lab, tmp_path, case.edit)
    with standing(files, own_name(f"self-{name}")) as lab:
        results = lab.results(case.scenario)
    assert results
    for result in results:
        verdict = result.verdict
        assert verdict.state == "broken", str(verdict)
        assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(
            verdict
        )


def test_the_table_tells_a_proxy_that_dials_for_the_rejected(tmp_path: Path) -> None:
    """A cell comes from the evidence: it says that the flow was stopped, and who saw a connection all the same."""
    files = written(WAYS, tmp_path, _fault("reject-then-dial-quietly"))
    with standing(files, own_name("self-table")) as lab:
        found = compare(lab.results("another namespace is rejected by the external proxy"))
    assert found is not None
    assert found.line("another namespace") == (
        "stopped at bigip by 'trusted-sleep', yet seen at firewall, proxy-echo (its scenario is broken)",
    )
