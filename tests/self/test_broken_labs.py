"""Each of these edits of a lab must turn the right scenario to broken or unknown, with a message that names the hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from small_lab import ALLOWED, REJECTED, own_name, standing, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.live

BYPASS = "no pod goes round the proxy to the site"
NO_CERTIFICATE = "a pod without a certificate is refused by the handshake"
DNS_NAME = "a proxy whose SPIFFE ID is only a DNS name is refused by the sidecar"


@dataclass(frozen=True)
class Case:
    """An edit, the scenario that must notice, and what one of its reasons must say at which hop."""

    edit: Callable[[dict[str, Any]], None]
    scenario: str
    state: str
    at: str
    says: str


def _widen(lab: dict[str, Any]) -> None:
    lab["outside"]["bigip"]["policies"]["bookinfo-only"] = [
        {"permit": {"spiffe_prefix": "spiffe://cluster.local/"}}
    ]


def _no_snat(lab: dict[str, Any]) -> None:
    del lab["outside"]["bigip"]["virtual_servers"]["bookinfo-proxy"]["snat"]


def _no_snat_and_let_through(lab: dict[str, Any]) -> None:
    _no_snat(lab)
    rule = {"name": "proxy", "from": "bigip", "to": "tinyproxy", "port": 8888, "allow": True}
    lab["outside"]["firewall"]["rules"].append(rule)


def _open_firewall(lab: dict[str, Any]) -> None:
    lab["outside"]["firewall"]["rules"].append({"name": "opened", "allow": True})


def _optional_certificate(lab: dict[str, Any]) -> None:
    lab["outside"]["bigip"]["virtual_servers"]["bookinfo-proxy"]["client_certificate"] = "optional"


def _no_server_check(lab: dict[str, Any]) -> None:
    del lab["services"]["bigip-dns-san-svc"]["server_identity"]


def _fault(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["outside"]["bigip"]["fault"] = name

    return edit


CASES = {
    "policy-widened": Case(_widen, REJECTED, "broken", "bigip", "PERMITTED by 'bookinfo-only'"),
    "snat-removed": Case(_no_snat, ALLOWED, "broken", "tinyproxy", "nothing; last seen at firewall"),
    "snat-removed-and-let-through": Case(_no_snat_and_let_through, ALLOWED, "broken", "tinyproxy", "10.4.0."),
    "firewall-opened": Case(_open_firewall, BYPASS, "broken", "firewall", "allow by 'opened'"),
    "certificate-optional": Case(
        _optional_certificate, NO_CERTIFICATE, "broken", "bigip", "REJECTED by 'bookinfo-only'"
    ),
    "server-name-unchecked": Case(_no_server_check, DNS_NAME, "broken", "sidecar", "it let the flow through"),
    "proxy-silent": Case(_fault("silent-log"), ALLOWED, "unknown", "bigip", "no line in its log"),
    "denial-without-log": Case(
        _fault("silent-log"),
        REJECTED,
        "unknown",
        "sm-apigw-a/nettools",
        "at bigip: expected its log records the flow",
    ),
    "rejects-then-dials": Case(_fault("reject-then-dial"), REJECTED, "broken", "firewall", "opening"),
    "rejects-then-dials-quietly": Case(
        _fault("reject-then-dial-quietly"), REJECTED, "broken", "firewall", "which no record accounts for"
    ),
    "program-dies": Case(
        _fault("exit-during-flow"), ALLOWED, "broken", "bigip", "egress-proxy runs; seen: it ended"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """No edit leaves its scenario held, and the reasons name the hop where the lab differs from what it should be."""
    case = CASES[name]
    files = write(tmp_path, [case.scenario], case.edit)
    with standing(files, own_name(f"self-{name}")) as lab:
        results = lab.results(case.scenario)
    assert results
    for result in results:
        verdict = result.verdict
        assert verdict.state == case.state, str(verdict)
        assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(
            verdict
        )


@pytest.mark.parametrize("node", ["bigip", "firewall"])
def test_a_blind_tap_proves_nothing(node: str, tmp_path: Path) -> None:
    """Once a tap sees nothing more, a denial that needs what it would have seen is unknown, at that tap's node."""
    files = write(tmp_path, [REJECTED])
    with standing(files, own_name(f"self-blind-{node}")) as lab:
        assert [result.verdict.state for result in lab.results(REJECTED)] == ["held"]
        session = lab.session()
        assert all(session.run(item).verdict.state == "held" for item in lab.items(ALLOWED))
        lab.lab.blind(node)
        verdicts = [session.run(item).verdict for item in lab.items(REJECTED)]
    for verdict in verdicts:
        assert verdict.state == "unknown", str(verdict)
        assert any(reason.at == node and "is blind" in reason.seen for reason in verdict.reasons), str(
            verdict
        )
