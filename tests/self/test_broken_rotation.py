"""Each of these faults of the lab `rotation` must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import Case, written
from small_lab import own_name, standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.live

LAB = "rotation"


def _fault(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["outside"]["bigip"]["fault"] = name

    return edit


def _stale_is_trusted(lab: dict[str, Any]) -> None:
    lab["namespaces"]["billing"]["workloads"]["stale"]["certificate"] = {"issuer": "mesh"}


def _every_namespace(lab: dict[str, Any]) -> None:
    rules = [{"permit": {"spiffe_prefix": "spiffe://cluster.local/ns/"}}]
    lab["outside"]["bigip"]["policies"]["billing-only"] = rules


def _another_server(lab: dict[str, Any]) -> None:
    lab["services"]["ledger"]["server_identity"] = "spiffe://cluster.local/ns/billing/sa/other"


CASES = {
    "a-proxy-that-does-not-read-again": Case(
        _fault("keep-certificates"),
        "the proxy shows its new certificate",
        "sidecar",
        "certificate 1 of 2 of bigip/ledger",
    ),
    "a-proxy-that-does-not-read-again-under-load": Case(
        _fault("keep-certificates"),
        "the proxy's certificate changes under load",
        "sidecar",
        "in all 60 flows",
    ),
    "an-authority-that-a-proxy-never-hears-of": Case(
        _fault("keep-certificates"),
        "the authority is replaced under load",
        "billing/invoices",
        "broken",
    ),
    "a-proxy-that-trusts-for-ever": Case(
        _fault("keep-trust"),
        "a pod that was forgotten is refused once its authority is retired",
        "bigip",
        "PERMITTED by 'billing-only'",
    ),
    "an-authority-that-was-not-retired": Case(
        _stale_is_trusted,
        "an authority that was replaced long ago is trusted at no moment while its successor is replaced",
        "bigip",
        "PERMITTED by 'billing-only'",
    ),
    "a-policy-for-every-namespace": Case(
        _every_namespace,
        "another namespace is admitted at no moment while the authority is replaced",
        "bigip",
        "PERMITTED by 'billing-only'",
    ),
    "a-proxy-that-is-somebody-else": Case(
        _another_server,
        "a pod passes with its new certificate",
        "billing/invoices sidecar",
        "refused there by 'server-identity'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_rotation_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written(LAB, tmp_path, case.edit)
    with standing(files, own_name(f"self-{name}"[:40])) as lab:
        (result,) = lab.results(case.scenario)
    verdict = result.verdict
    assert verdict.state == "broken", str(verdict)
    assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(verdict)
