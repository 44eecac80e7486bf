"""What is tried together, what a report tells of many cases, and how much room rings get in labs of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from judged_flows import RED, joined, told

from harness.agent.lab_process import ring_of
from harness.agent.layout import Space
from harness.batches import MOST_TOGETHER, beside, is_one_of_many, lean
from harness.generated import Size, lab_text, scenario_text
from harness.lab import load_lab
from harness.plan import make_plan
from harness.report import MANY, MOST_TOLD
from harness.report import told as told_in_full
from harness.run import Result
from harness.scenario import load_scenarios
from harness.verdict import conclude, judge

if TYPE_CHECKING:
    from pathlib import Path

    from harness.plan import Plan
    from harness.scenario import Item

SIZE = Size.of(nodes=2, pods=120, tenants=2, probes=60, targets=40)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, tuple[Item, ...]]:
    """Return a generated lab's plan and its cases: 30 probes of each of two tenants to 40 targets."""
    folder: Path = tmp_path_factory.mktemp("matrix")
    (folder / "lab.yaml").write_text(lab_text(SIZE).replace("NAME", "matrix"), encoding="utf-8")
    (folder / "scenarios.yaml").write_text(scenario_text(SIZE), encoding="utf-8")
    lab = load_lab(folder / "lab.yaml")
    return make_plan(lab), load_scenarios(folder / "scenarios.yaml", lab)


def test_a_scenarios_cases_share_a_window(matrix: tuple[Plan, tuple[Item, ...]]) -> None:
    """With an allowed case go those of its scenario that were not tried yet, and no other's."""
    plan, items = matrix
    first = items[0]
    assert is_one_of_many(first, plan)
    together = beside(first, items, {})
    assert len(together) == 600
    assert {item.scenario.name for item in together} == {first.scenario.name}
    assert beside(first, items, dict.fromkeys((item.id for item in together[1:]), None)) == [first]


def test_a_window_has_its_limit(matrix: tuple[Plan, tuple[Item, ...]]) -> None:
    """Of more cases than fit one window the rest is left for the next."""
    _, items = matrix
    many = [items[0].model_copy(update={"id": str(number)}) for number in range(MOST_TOGETHER + 5)]
    assert len(beside(many[0], many, {})) == MOST_TOGETHER


def test_commands_are_tried_one_by_one(matrix: tuple[Plan, tuple[Item, ...]]) -> None:
    """What runs a command has no port that is known beforehand."""
    plan, items = matrix
    scenario = items[0].scenario.model_copy(update={"run": "curl -s site-1", "to": None})
    assert not is_one_of_many(items[0].model_copy(update={"scenario": scenario}), plan)


def test_packets_of_many_flows_are_not_kept() -> None:
    """Of flows that were tried together passports and verdicts stay; of one alone everything does."""
    evidence = told(RED)
    one = (evidence, joined(evidence), judge(evidence, joined(evidence)))
    assert lean([one]) == [one]
    kept = lean([one, one])
    assert [(passport, verdict) for _, passport, verdict in kept] == [one[1:]] * 2
    assert not kept[0][0].recorded.packets
    assert kept[0][0].recorded.counters == evidence.recorded.counters


def test_of_many_cases_those_that_did_not_hold_are_told() -> None:
    """A scenario of few cases is told whole; of many the first that did not hold, and one where all held."""
    evidence = told(RED)
    item, held = evidence.attempt.item, judge(evidence, joined(evidence))
    results = [
        Result(item.model_copy(update={"id": str(number)}), held, None, None, 0.0)
        for number in range(MANY + 10)
    ]
    assert told_in_full(results[:MANY]) == results[:MANY]
    assert told_in_full(results) == results[:1]
    unknown = conclude([])
    some = [replace(one, verdict=unknown) if number > 3 else one for number, one in enumerate(results)]
    assert told_in_full(some) == some[4 : 4 + MOST_TOLD]


@pytest.mark.parametrize(("pods", "others"), [(12, 10), (100, 10), (250, 5), (1000, 33)])
def test_rings_have_room_within_a_limit(pods: int, others: int) -> None:
    """All rings of a lab fit 400 MB, each has 4 blocks at least, and the kernel looks after rings rarely enough."""
    spaces = [Space(f"pod-{number}", "", pod=True) for number in range(pods)]
    spaces += [Space(f"node-{number}", "", pod=False) for number in range(others)]
    rings = [ring_of(space, spaces) for space in spaces]
    assert sum(size * blocks for size, blocks, _ in rings) <= 400 << 20
    assert sum(1000 / retire for _, _, retire in rings) < 10_000
    assert all(size % 4096 == 0 and blocks >= 4 for size, blocks, _ in rings)
