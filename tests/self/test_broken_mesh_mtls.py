"""Each of these edits of the lab mesh-mtls must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import Case, written
from small_lab import own_name, standing

from harness import mtls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.live

SPACE = "wordpress-app"


def _accepts(server: str, mode: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["mesh"]["mtls"]["overrides"][f"{SPACE}/{server}"] = mode

    return edit


def _sends(client: str, mode: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["mesh"]["mtls"]["clients"][client] = mode

    return edit


def _account(lab: dict[str, Any]) -> None:
    lab["namespaces"][SPACE]["workloads"]["wordpress"]["service_account"] = "default"


def _server_account(lab: dict[str, Any]) -> None:
    certificate = {"identity": f"spiffe://cluster.local/ns/{SPACE}/sa/other"}
    lab["namespaces"][SPACE]["workloads"]["mysql-strict"]["certificate"] = certificate


def _foreign_server(lab: dict[str, Any]) -> None:
    lab["namespaces"][SPACE]["workloads"]["mysql-strict"]["certificate"] = {"issuer": "foreign"}


def _honest_impostor(lab: dict[str, Any]) -> None:
    del lab["namespaces"][SPACE]["workloads"]["impostor"]["certificate"]


def _waits_for_ever(lab: dict[str, Any]) -> None:
    del lab["mesh"]["mtls"]["detection_timeout"]


MUTUAL = "a post is read by mutual TLS, and both sidecars know who the other is"
STRICT, PERMISSIVE = f"{SPACE}/mysql-strict sidecar", f"{SPACE}/mysql-permissive sidecar"

CASES = {
    "strict-was-forgotten": Case(
        _accepts("mysql-strict", "permissive"),
        "plain text does not pass the sidecar of a strict server",
        STRICT,
        "it let the flow through",
    ),
    "strict-was-switched-off": Case(
        _accepts("mysql-strict", "disable"),
        MUTUAL,
        f"{SPACE}/wordpress sidecar",
        "refused there by 'server-tls'",
    ),
    "the-client-sends-plain-text": Case(
        _sends(f"{SPACE}/wordpress", "disable"), MUTUAL, STRICT, "refused there by 'mutual-tls'"
    ),
    "a-permissive-server-hides-plain-text": Case(
        _sends(f"{SPACE}/wordpress", "disable"),
        "a permissive server is reached by mutual TLS where the client sends it",
        f"{SPACE}/mysql-permissive",
        "no TLS",
    ),
    "nothing-is-sent-in-plain-text": Case(
        _sends(f"{SPACE}/wordpress-plain", "istio_mutual"),
        "plain text from a sidecar reaches a permissive server",
        f"{SPACE}/mysql-permissive",
        "TLS records only",
    ),
    "another-service-account": Case(
        _account, MUTUAL, STRICT, f"spiffe://cluster.local/ns/{SPACE}/sa/default"
    ),
    "another-server": Case(
        _server_account, MUTUAL, f"{SPACE}/wordpress sidecar", "refused there by 'server-identity'"
    ),
    "a-server-of-another-authority": Case(
        _foreign_server, MUTUAL, f"{SPACE}/wordpress sidecar", "refused there by 'server-certificate'"
    ),
    "the-impostor-is-none": Case(
        _honest_impostor,
        "a certificate of another authority does not pass the sidecar of a strict server",
        STRICT,
        "it let the flow through",
    ),
    "a-server-that-speaks-tls-after-all": Case(
        _accepts("mysql-disable", "permissive"),
        "mutual TLS towards a server that speaks plain text breaks in the handshake",
        "sidecar",
        "it let the flow through",
    ),
    "the-two-wait-for-each-other": Case(
        _waits_for_ever,
        "plain text from a pod without a sidecar reaches a permissive server",
        f"{SPACE}/mysql-permissive",
        "Lost connection to server",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken in every case that it has, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written("mesh-mtls", tmp_path, case.edit)
    with standing(files, own_name(f"self-{name}"[:40])) as lab:
        results = lab.results(case.scenario)
    assert results
    for result in results:
        verdict = result.verdict
        assert verdict.state == "broken", str(verdict)
        assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(
            verdict
        )


def test_a_sidecar_that_connects_before_it_verifies_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log says that it refused the client; that its app saw a connection all the same makes it broken."""
    monkeypatch.setattr(mtls, "_after_the_handshake", dict)
    files = written("mesh-mtls", tmp_path, lambda _: None)
    with standing(files, own_name("self-connects-early")) as lab:
        (result,) = lab.results(
            "a certificate of another authority does not pass the sidecar of a strict server"
        )
    assert [reason.at for reason in result.verdict.reasons] == [f"{SPACE}/mysql-strict app"], str(
        result.verdict
    )
