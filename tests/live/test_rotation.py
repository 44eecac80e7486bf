"""Certificates that change in a lab that runs: every scenario holds, and what was done is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from edited_lab import written
from other_user import egresslab_as_other, folder_for_others
from small_lab import own_name, standing

from harness import shipped
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.engine_choice import with_engine
from harness.errors import InputError
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.run import Session
from harness.scenario import load_scenarios
from harness.source import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.live

LAB = "rotation"
CLIENT, PROXY = "billing/invoices", "bigip/ledger"
SECONDS = 20.0


@pytest.fixture(scope="module", params=["builtin", "envoy"])
def lab(request: pytest.FixtureRequest) -> Iterator[NamespaceLab]:
    """Stand the lab up on an engine."""
    path = shipped.find_lab(LAB)
    text = with_engine(path.read_text(encoding="utf-8"), str(path), request.param)
    plan = make_plan(parse_lab(parse(text.encode(), str(path))))
    running = stand_up(plan, own_name(f"rotation-{request.param}"), (str(path), text), owned=True)
    yield running
    running.close()


def served(lab: NamespaceLab) -> bool:
    """Tell whether the application reaches the ledger."""
    asked = lab.run(CLIENT, ["curl", "-sS", "-o", "/dev/null", "http://ledger/"], seconds=SECONDS)
    return asked.code == 0


def process_ids(lab: NamespaceLab) -> dict[tuple[str, str], int]:
    """Return who runs."""
    return {(one["node"], one["name"]): one["pid"] for one in lab.programs()}


def test_every_scenario_holds_at_the_first_try(lab: NamespaceLab) -> None:
    """One after another and under load, on both engines: no good flow is refused, no bad one admitted."""
    items = [item for path in shipped.scenario_paths(LAB) for item in load_scenarios(path)]
    session = Session(lab, items)
    results = [session.run(item) for item in items]
    wrong = [f"{one.item.id}: {one.verdict}" for one in results if one.verdict.state != "held"]
    assert wrong == []
    assert {one.tries for one in results} == {1}


def test_nothing_is_started_anew(lab: NamespaceLab) -> None:
    """Every program goes through a rotation of everything and back as the process that it was."""
    before, state = process_ids(lab), lab.state()
    lab.rotate("ca")
    assert process_ids(lab) == before
    lab.restore(state)
    assert process_ids(lab) == before


def test_what_was_rotated_is_undone(lab: NamespaceLab) -> None:
    """Undone, everybody has the former certificate in use and no other on record, and the lab works."""
    state, first = lab.state(), lab.issued()
    for name in (CLIENT, "bigip", "ca"):
        lab.rotate(name)
        assert served(lab)
    now = lab.issued()
    assert [len(now[name]) for name in (CLIENT, PROXY, "shop/cart")] == [3, 3, 2]
    lab.restore(state)
    assert lab.issued() == first
    assert served(lab)


def test_a_pod_finds_its_new_certificate_in_its_folder(lab: NamespaceLab) -> None:
    """What an application reads from its pod's folder is what its sidecar shows, key and roots too."""
    state = lab.state()
    lab.rotate("ca")
    folder = f"{lab.bindings.folder(CLIENT)}/certs"
    chain, roots = f"{folder}/cert-chain.pem", f"{folder}/root-cert.pem"
    checked = f"openssl verify -CAfile {roots} -untrusted {chain} {chain}"
    shown = f"openssl x509 -in {chain} -noout -fingerprint -sha256"
    ran = lab.run(CLIENT, ["sh", "-c", f"{checked} && {shown}"], seconds=SECONDS)
    lab.restore(state)
    assert ran.code == 0, ran.stderr
    fingerprint = ran.stdout.rpartition("=")[2].strip().replace(":", "").lower()
    assert fingerprint != lab.issued()[CLIENT][-1]


def _rotating(lab: dict[str, Any]) -> None:
    lab["mesh"]["certificates"] = {"rotate": True}


WAYS = (
    "the egress gateway lets the application pass, behind its node's address",
    "the checking gateway lets the application pass, behind its node's address",
    "the Envoy on the server's host lets the application pass",
    "the external proxy lets the application pass, from its tenant's address",
)


def test_gateways_and_hosts_of_the_mesh_take_new_certificates_as_they_run(tmp_path: Path) -> None:
    """Whatever way an application goes, it goes on after the authority was replaced, and nothing was started anew."""
    files = written("three-ways", tmp_path, _rotating)
    with standing(files, own_name("rotation-ways")) as stands:
        before = process_ids(stands.lab)
        stands.lab.rotate("ca")
        results = [result for way in WAYS for result in stands.results(way)]
        assert process_ids(stands.lab) == before
    assert [str(result.verdict) for result in results] == ["held"] * len(WAYS)


def test_an_ordinary_user_rotates_too() -> None:
    """Nothing of it needs privileges."""
    with folder_for_others() as folder:
        chosen = ("--lab", LAB, "-k", "authority's certificate", "--name", own_name("rotation-user"))
        ran = egresslab_as_other(folder, "test", *chosen, seconds=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_engine_that_cannot_rotate_is_refused(tmp_path: Path) -> None:
    """Nothing is started: the sentence names the place and what the lab demands."""
    found = egresslab("test", "--lab", LAB, "--engine", "haproxy", "--out", str(tmp_path))
    assert found.returncode == InputError.exit_code
    assert "the engine 'haproxy' cannot change its certificates" in found.stderr
