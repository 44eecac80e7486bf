"""The shipped scenarios hold whatever runs in the egress proxy's node; the lab file names another engine, no more."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from other_user import egresslab_as_other, folder_for_others
from small_lab import ALLOWED, REJECTED, SHIPPED, own_name, standing, write

from harness import lookup, shipped
from harness.drivers import netns
from harness.engine_choice import with_engine
from harness.errors import MissingCapability
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.source import parse

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.live

LOCAL = ("builtin", "envoy", "haproxy")
WIDENED, OPTIONAL, NO_SNAT = "policy-widened", "certificate-optional", "snat-removed"


@pytest.mark.parametrize("engine", LOCAL)
def test_every_scenario_of_the_first_lab_holds(engine: str, tmp_path: Path) -> None:
    """`--engine` is all that differs, and what the engine shows instead of the article's text is told with its name."""
    name = own_name(f"engine-{engine}")
    found = egresslab(
        *("test", "--lab", SHIPPED, "--engine", engine, "--name", name, "--out", str(tmp_path), "-v")
    )
    assert found.returncode == 0, found.stdout + found.stderr
    flows = tmp_path / SHIPPED / "latest" / "flows.jsonl"
    lines = map(json.loads, flows.read_text(encoding="utf-8").splitlines())
    results = [line for line in lines if "scenario" in line]
    scenarios = {scenario for path in shipped.scenario_paths(SHIPPED) for scenario in _names(path)}
    assert {result["scenario"] for result in results} == scenarios
    assert {result["verdict"] for result in results} == {"held"}
    (reset,) = (result for result in results if result["scenario"] == REJECTED)
    told = [finding["expected"] for finding in reset["findings"] if finding["check"] == "client"]
    differs = bool([one for one in lookup.find("engines", engine).DIFFERENCES.instead if one.by == "policy"])
    assert all((f"as {engine} at bigip has it" in words) == differs for words in told)


@pytest.mark.parametrize("lab", ["echo-without-envoy", "legacy-database", "three-ways"])
@pytest.mark.parametrize("engine", LOCAL[1:])
def test_the_second_articles_labs_hold_too(engine: str, lab: str, tmp_path: Path) -> None:
    """Plain TCP and a server that speaks first pass every engine; the scenarios stay word for word."""
    found = egresslab(
        *("test", "--lab", lab, "--engine", engine, "--name", own_name(f"{engine}-{lab}")),
        *("--out", str(tmp_path)),
    )
    assert found.returncode == 0, found.stdout + found.stderr


def _names(path: Path) -> list[str]:
    return [scenario["name"] for scenario in parse(path.read_bytes(), str(path)).data["scenarios"]]


@pytest.mark.parametrize("engine", LOCAL[1:])
@pytest.mark.parametrize("fault", [WIDENED, OPTIONAL, NO_SNAT])
def test_another_engine_excuses_no_fault(engine: str, fault: str, tmp_path: Path) -> None:
    """A policy too wide, a certificate not demanded, an address not translated: each turns a scenario to broken."""

    def edit(lab: dict[str, Any]) -> None:
        proxy = lab["outside"]["bigip"]
        proxy["engine"] = engine
        if fault == WIDENED:
            proxy["policies"]["bookinfo-only"] = [{"permit": {"spiffe_prefix": "spiffe://cluster.local/"}}]
        elif fault == OPTIONAL:
            proxy["virtual_servers"]["bookinfo-proxy"]["client_certificate"] = "optional"
        else:
            del proxy["virtual_servers"]["bookinfo-proxy"]["snat"]

    scenario = {
        WIDENED: REJECTED,
        OPTIONAL: "a pod without a certificate is refused by the handshake",
        NO_SNAT: ALLOWED,
    }[fault]
    files = write(tmp_path, [scenario], edit)
    with standing(files, own_name(f"{engine}-{fault}")) as lab:
        (result,) = lab.results(scenario)
    assert result.verdict.state == "broken", str(result.verdict)


def test_an_ordinary_user_runs_another_engine() -> None:
    """HAProxy needs no privileges either: the scenarios hold for a user who has none."""
    with folder_for_others() as folder:
        files = write(folder, [REJECTED])
        ran = egresslab_as_other(
            folder,
            "test",
            str(files.scenarios),
            "--engine",
            "haproxy",
            "--name",
            own_name("engine-user"),
            seconds=60,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert shutil.which("haproxy", path="/usr/sbin:/usr/bin") or "EGRESSLAB_TOOLS" in os.environ


def test_an_external_proxy_needs_what_namespaces_are_not() -> None:
    """A BIG-IP cannot be made: the driver says which capability it lacks, and nothing is started."""
    path = shipped.find_lab(SHIPPED)
    text = with_engine(path.read_text(encoding="utf-8"), str(path), "external")
    plan = make_plan(parse_lab(parse(text.encode(), str(path))))
    name = own_name("external")
    with pytest.raises(MissingCapability, match="bigip needs external-proxy") as caught:
        netns.up(plan, name, (str(path), text), owned=True)
    assert caught.value.capability == "external-proxy"
    assert name not in netns.running()


def test_a_lab_stays_up_on_the_engine_that_up_was_told() -> None:
    """`up --engine` starts that engine; a lab without an egress proxy has none to choose."""
    name = own_name("up-haproxy")
    found = egresslab("up", "echo-without-envoy", "--engine", "haproxy", "--name", name)
    assert found.returncode == 0, found.stderr
    try:
        assert "haproxy" in egresslab("exec", "--lab", name, "bigip", "--", "ps", "-eo", "args").stdout
    finally:
        egresslab("down", name)
    refused = egresslab("up", "canary", "--engine", "haproxy")
    assert refused.returncode == 2
    assert refused.stderr == "egresslab: --engine haproxy: this lab has no egress proxy\n"


def test_a_lab_that_runs_on_another_engine_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """A run that asks for another engine than the running lab has stops and says so, rather than test the wrong one."""
    files = write(tmp_path, [REJECTED])
    with standing(files, own_name("one-engine")) as lab:
        found = egresslab("test", str(files.scenarios), "--engine", "envoy", "--name", lab.lab.name)
    assert found.returncode == 2
    assert "with another --engine" in found.stderr
