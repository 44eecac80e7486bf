"""The canary's lab: every scenario holds, and what gateway and pods themselves say of requests and weights."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from small_lab import Files, own_name, standing

from harness import ready, shipped, source
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.run import Session
from harness.running import Mark
from harness.scenario import Step, load_scenarios
from harness.steps import given

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

CANARY = "canary"
GATEWAY = "istio-ingress/gateway"
V1, V2 = "web/webapp-v1", "web/webapp-v2"
SECONDS = 20.0
BEGINNING = Mark(0, {})
"""Before everything that a lab has recorded."""


@pytest.fixture(scope="module")
def canary() -> Iterator[NamespaceLab]:
    """Stand the lab up."""
    path = shipped.find_lab(CANARY)
    text = (str(path), path.read_text(encoding="utf-8"))
    lab = stand_up(make_plan(load_lab(path)), own_name("canary-test"), text, owned=True)
    try:
        yield lab
    finally:
        lab.close()


def process(lab: NamespaceLab) -> object:
    """Return the process id of the gateway's Envoy."""
    return next(one["pid"] for one in lab.programs() if one["node"] == GATEWAY)


def weights(first: int) -> Step:
    """Return the step that gives version 1 so many percent, and version 2 the rest."""
    return Step.model_validate({"weights": "webapp", "to": {V1: first, V2: 100 - first}})


def asked(lab: NamespaceLab, times: int, path: str = "") -> list[str]:
    """Ask the site for a path from outside, and return which version each page says it is of."""
    urls = [f"http://webapp.example.com/{path}"] * times
    pages = lab.run("visitor", ["curl", "-sSf", *urls], seconds=SECONDS)
    assert pages.code == 0, pages.stderr
    return re.findall(r"This is webapp (v\d)", pages.stdout)


def logged(lab: NamespaceLab, path: str, times: int) -> list[dict[str, Any]]:
    """Return what the gateway logged of so many requests for a path, when it has logged them."""

    def found() -> list[dict[str, Any]] | None:
        lines = lab.collect(BEGINNING, ("lines",)).lines[f"{GATEWAY} gateway"]
        events = [json.loads(line) for _, line in lines if line.startswith("{")]
        wanted = [event for event in events if event.get("path") == f"/{path}"]
        return wanted if len(wanted) >= times else None

    return ready.until(f"{times} requests are logged", found, seconds=5)


def test_every_scenario_of_the_canary_holds(canary: NamespaceLab) -> None:
    """Each at the first try."""
    items = [item for path in shipped.scenario_paths(CANARY) for item in load_scenarios(path)]
    session = Session(canary, items)
    results = [session.run(item) for item in items]
    assert [f"{one.item.id}: {one.verdict}" for one in results if one.verdict.state != "held"] == []


def test_both_versions_serve(canary: NamespaceLab) -> None:
    """Of a hundred requests each version gets some; a version that got none would be one in 10**9 runs."""
    assert set(asked(canary, 100)) == {"v1", "v2"}


def test_each_request_has_connections_of_its_own(canary: NamespaceLab) -> None:
    """Though curl would keep its connection, no two requests share a port on either side of the gateway."""
    asked(canary, 20, "own-connections")
    found = logged(canary, "own-connections", 20)
    assert len({event["peer"] for event in found}) == 20
    assert len({event["upstream_local"] for event in found}) == 20


def test_weights_change_and_come_back(canary: NamespaceLab) -> None:
    """Requests go where a step says from its end on, and after it as the lab file says, by the same process."""
    before = process(canary)
    with given(canary, [weights(0)]):
        assert asked(canary, 30) == ["v2"] * 30
    with given(canary, [weights(100)]):
        assert asked(canary, 30) == ["v1"] * 30
    assert process(canary) == before
    assert canary.plan.lab.routes["webapp"].to[0].weight == 80
    asked(canary, 1, "as-before")
    (last,) = logged(canary, "as-before", 1)
    assert last["routes"] == f"webapp {V1}=80,{V2}=20"


@pytest.mark.parametrize("whose", [GATEWAY, "ca"])
def test_a_gateway_takes_new_certificates_as_it_runs(whose: str, tmp_path: Path) -> None:
    """Where certificates change, the gateway reaches the pods with its new one, and trusts the new authority's."""
    data = copy.deepcopy(source.read(shipped.find_lab(CANARY)).data)
    data["mesh"]["certificates"] = {"rotate": True}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    path = tmp_path / "scenarios.yaml"
    served = {
        "name": "served",
        "from": "visitor",
        "to": "http://webapp.example.com/",
        "given": [{"rotate": whose}],
        "expect": {"allowed": {"path": ["edge", GATEWAY], "client": {"shows": "HTTP/1.1 200 OK"}}},
    }
    path.write_text(yaml.safe_dump({"lab": "lab.yaml", "scenarios": [served]}), encoding="utf-8")
    files = Files(tmp_path / "lab.yaml", path, load_scenarios(path))
    with standing(files, own_name("canary-rotates")) as standing_lab:
        before = process(standing_lab.lab)
        (result,) = standing_lab.results("served")
        assert result.verdict.state == "held", str(result.verdict)
        assert process(standing_lab.lab) == before
