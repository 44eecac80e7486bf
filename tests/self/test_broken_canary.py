"""Each of these edits of the canary's lab must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from small_lab import Files, own_name, standing

from harness import shipped, source
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.scenario import Item

pytestmark = pytest.mark.live

CANARY = "canary"
SERVED = "a visitor is served through the gateway"
SPLIT = "four of five requests reach version 1"
MOVED = "no request is lost while all of the weight moves to version 2"
GATEWAY = "istio-ingress/gateway"


@dataclass(frozen=True)
class Case:
    """An edit of the lab, the scenario that must notice, and what one of its reasons must say at which hop.

    `given` are steps that the scenario gets besides.
    """

    edit: Callable[[dict[str, Any]], None]
    scenario: str
    at: str
    says: str
    given: tuple[dict[str, str], ...] = ()


def _foreign_gateway(lab: dict[str, Any]) -> None:
    gateway = lab["namespaces"]["istio-ingress"]["workloads"]["gateway"]
    gateway["certificate"] = {"issuer": "foreign"}


def _gateway_without_tls(lab: dict[str, Any]) -> None:
    lab["mesh"]["mtls"]["clients"] = {"istio-ingress/gateway": "disable"}


def _foreign_pods(lab: dict[str, Any]) -> None:
    lab["namespaces"]["web"]["workloads"]["webapp"]["certificate"] = {
        "identity": "spiffe://cluster.local/ns/web/sa/impostor"
    }


def _plain_text(lab: dict[str, Any]) -> None:
    lab["mesh"]["mtls"]["default"] = "disable"


def _weights(first: int) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        for one, weight in zip(lab["routes"]["webapp"]["to"], (first, 100 - first), strict=True):
            one["weight"] = weight

    return edit


def _as_shipped(_: dict[str, Any]) -> None:
    """Change nothing: a step is the fault."""


def _closed_edge(lab: dict[str, Any]) -> None:
    lab["outside"]["edge"]["rules"] = []


def _open_edge(lab: dict[str, Any]) -> None:
    lab["outside"]["edge"]["rules"].append({"name": "opened", "from": "internet", "allow": True})


def _one_host_more(lab: dict[str, Any]) -> None:
    lab["routes"]["webapp"]["hosts"].append("other.example.com")


CASES = {
    "gateway-of-another-authority": Case(_foreign_gateway, SERVED, GATEWAY, "503 U"),
    "gateway-without-tls": Case(_gateway_without_tls, SERVED, GATEWAY, "503 U"),
    "pods-of-another-identity": Case(_foreign_pods, SERVED, GATEWAY, "CERTIFICATE_VERIFY_FAILED"),
    "plain-text-behind-the-gateway": Case(_plain_text, SERVED, f"{GATEWAY}.eth0", "encrypted"),
    "weights-swapped": Case(_weights(20), SPLIT, "web/webapp-v2", "20 % of"),
    "nothing-for-version-2": Case(_weights(100), SPLIT, "web/webapp-v2", "seen: 0 flows"),
    "weights-even": Case(_weights(50), SPLIT, "web/webapp-v1", "80 % of"),
    "weights-swapped-before-the-change": Case(
        _weights(20), MOVED, "web/webapp-v1", "flows before the change"
    ),
    "a-version-that-is-down": Case(
        _as_shipped, SPLIT, GATEWAY, "503 U", given=({"kill": "web/webapp-v2", "program": "app"},)
    ),
    "a-new-version-that-is-down": Case(
        _as_shipped, MOVED, GATEWAY, "503 U", given=({"kill": "web/webapp-v2", "program": "sidecar"},)
    ),
    "a-closed-edge": Case(_closed_edge, SERVED, GATEWAY, "nothing; last seen at edge"),
    "an-open-edge": Case(
        _open_edge, "only the gateway's port is open from outside", "edge", "allow by 'opened'"
    ),
    "a-route-for-every-host": Case(
        _one_host_more,
        "a host that no route is for is refused by the gateway",
        GATEWAY,
        "it let the flow through",
    ),
}


def written(folder: Path, case: Case) -> Files:
    """Write the shipped lab with an edit, and all of its scenarios, one of them with steps."""
    data = copy.deepcopy(source.read(shipped.find_lab(CANARY)).data)
    case.edit(data)
    lab = folder / "lab.yaml"
    lab.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    items: list[Item] = []
    for path in shipped.scenario_paths(CANARY):
        content = copy.deepcopy(source.read(path).data) | {"lab": "lab.yaml"}
        for scenario in content["scenarios"]:
            if scenario["name"] == case.scenario and case.given:
                scenario["given"] = [*scenario.get("given", ()), *case.given]
        (folder / path.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for path in shipped.scenario_paths(CANARY):
        items += load_scenarios(folder / path.name)
    return Files(lab, folder, tuple(items))


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written(tmp_path, case)
    with standing(files, own_name(f"canary-{name}")) as lab:
        item = next(item for item in files.items if item.scenario.name == case.scenario)
        verdict = lab.session().run(item).verdict
    assert verdict.state == "broken", str(verdict)
    assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(verdict)
