"""Proxies that read identities carelessly: the attack pack must find each, at the right hop, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from command_line import egresslab
from edited_lab import written
from small_lab import own_name, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from small_lab import Standing

pytestmark = pytest.mark.live

LAB = "identity-attacks"
HANDSHAKE, POLICY = "refuses it in the handshake", "rejects it by its policy"


def _careless(lab: dict[str, Any]) -> None:
    """No dates, no slash at the end of the namespace, no certificate demanded: one fault a proxy."""
    outside = lab["outside"]
    outside["builtin"]["fault"] = "ignore-validity"
    outside["envoy"]["policies"]["prod-only"] = [
        {"permit": {"spiffe_prefix": "spiffe://cluster.local/ns/prod"}}
    ]
    outside["haproxy"]["virtual_servers"]["ledger"]["client_certificate"] = "optional"


def _forgetful(lab: dict[str, Any]) -> None:
    """Sessions that outlive their certificate, and trust domains without an end."""
    lab["outside"]["builtin"]["fault"] = "keep-sessions"
    for name in ("envoy", "haproxy"):
        rules = [{"permit": {"spiffe_prefix": "spiffe://cluster.local"}}]
        lab["outside"][name]["policies"]["prod-only"] = rules


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab with the first faults up, once for all tests of this module."""
    files = written(LAB, tmp_path_factory.mktemp("careless"), _careless)
    with standing(files, own_name("attacks-careless")) as lab:
        yield lab


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab with the other faults up."""
    files = written(LAB, tmp_path_factory.mktemp("forgetful"), _forgetful)
    with standing(files, own_name("attacks-forgetful")) as lab:
        yield lab


def missed(lab: Standing, scenario: str) -> dict[str, str]:
    """Return why each attack of a scenario is broken; none may be unknown."""
    results = lab.results(scenario)
    assert {result.verdict.state for result in results} <= {"held", "broken"}
    return {
        result.item.attack or "": "; ".join(map(str, result.verdict.reasons))
        for result in results
        if result.verdict.state == "broken"
    }


def test_a_proxy_that_does_not_look_at_dates(careless: Standing) -> None:
    """What is over and what is to come get through there, and nothing else does."""
    found = missed(careless, f"builtin {HANDSHAKE}")
    assert set(found) == {"expired", "not-yet-valid"}
    for why in found.values():
        assert (
            "at builtin: expected a recorded denial by 'client-certificate'; seen: PERMITTED by 'prod-only'"
            in why
        )
        assert "at ledger: expected nothing of this flow" in why


def test_a_policy_by_prefix_without_slash(careless: Standing) -> None:
    """A namespace that begins alike is admitted, and the namespace alone is; the handshake's part is as it was."""
    found = missed(careless, f"envoy {POLICY}")
    assert set(found) == {"namespace-longer", "namespace-alone"}
    assert (
        "PERMITTED by 'prod-only', identity spiffe://cluster.local/ns/prod2/sa/app"
        in found["namespace-longer"]
    )
    assert missed(careless, f"envoy {HANDSHAKE}") == {}


def test_a_proxy_that_demands_no_certificate(careless: Standing) -> None:
    """Who has none is stopped by the policy only, and so are those who resume another's session and have none."""
    found = missed(careless, f"haproxy {HANDSHAKE}")
    assert set(found) == {"no-certificate", "session-1.2", "session-1.3"}
    for why in found.values():
        assert "seen: REJECTED by 'prod-only'" in why


def test_the_command_finds_it_in_a_lab_of_ones_own(careless: Standing) -> None:
    """`egresslab attack` needs no scenario: it says which policy admitted whom, and exits with 1."""
    found = egresslab(
        *("attack", str(careless.files.lab), "--name", careless.lab.name, "--virtual-server", "envoy"),
        *("-k", "namespace", "--out", str(careless.files.lab.parent / "out")),
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert "PERMITTED by 'prod-only', identity spiffe://cluster.local/ns/prod2/sa/app" in found.stdout
    table = (careless.files.lab.parent / "out" / LAB / "latest" / "table.md").read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    assert rows == {
        "percent-encoded namespace": "stopped at envoy by 'prod-only'",
        "a namespace that begins alike": "gets through as snat/envoy (its scenario is broken)",
        "the namespace alone": "gets through as snat/envoy (its scenario is broken)",
    }


def test_a_proxy_that_resumes_sessions(forgetful: Standing) -> None:
    """Who has the number of a session and no certificate is taken for whom the session was made."""
    found = missed(forgetful, f"builtin {HANDSHAKE}")
    assert set(found) == {"session-1.2"}
    assert "PERMITTED by 'prod-only', identity spiffe://cluster.local/ns/prod/sa/app" in found["session-1.2"]


def test_a_policy_by_trust_domain_without_slash(forgetful: Standing) -> None:
    """A trust domain that begins alike is admitted, but not where a validator knows the mesh's own."""
    found = missed(forgetful, f"haproxy {POLICY}")
    assert "trust-domain-longer" in found
    assert "PERMITTED" in found["trust-domain-longer"]
    assert not {"trust-domain", "percent-last", "authority-as-leaf", "two-uris"} & set(found)
    assert missed(forgetful, f"envoy {HANDSHAKE}") == {}
