"""A generated lab: it holds as it stands, and in a matrix of flows sent together each has its own verdict."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from small_lab import own_name

from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.generated import Size, lab_text, scenario_text
from harness.lab import load_lab, parse_lab
from harness.plan import make_plan
from harness.run import Result, Session
from harness.scenario import load_scenarios
from harness.source import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.scenario import Item

pytestmark = pytest.mark.live

SIZE = Size.of(nodes=3, pods=50, tenants=3, probes=12, targets=9)
FLOWS = SIZE.probes * SIZE.targets


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NamespaceLab, tuple[Item, ...]]]:
    """Stand a generated lab up; yield it with the cases of its scenarios."""
    folder: Path = tmp_path_factory.mktemp("generated")
    text = lab_text(SIZE).replace("NAME", "generated")
    (folder / "lab.yaml").write_text(text, encoding="utf-8")
    (folder / "scenarios.yaml").write_text(scenario_text(SIZE), encoding="utf-8")
    lab = load_lab(folder / "lab.yaml")
    items = load_scenarios(folder / "scenarios.yaml", lab)
    running = stand_up(make_plan(lab), own_name("generated"), ("lab.yaml", text), owned=True)
    yield running, items
    running.close()


def run(lab: NamespaceLab, items: tuple[Item, ...]) -> tuple[list[Result], list[str]]:
    """Run all cases; return their results, and what was said of each window."""
    windows: list[str] = []
    session = Session(lab, items, windows.append)
    return [session.run(item) for item in items], windows


def test_it_holds_as_it_stands_and_a_scenario_is_one_window(
    standing: tuple[NamespaceLab, tuple[Item, ...]],
) -> None:
    """Each case has a verdict, with the sightings of its own flow and of no other; all of a scenario share a window."""
    lab, items = standing
    results, windows = run(lab, items)
    assert Counter(result.verdict.state for result in results) == {"held": FLOWS}, [
        str(result.verdict) for result in results if result.verdict.state != "held"
    ][:3]
    assert len(windows) == 2 * SIZE.tenants
    flows = [result.passport.flows for result in results if result.passport]
    assert len(flows) == FLOWS
    assert len(frozenset[object]().union(*flows)) == sum(map(len, flows))
    assert all(result.passport and result.passport.sightings for result in results)


def test_a_leak_is_found_among_flows_that_hold(standing: tuple[NamespaceLab, tuple[Item, ...]]) -> None:
    """A rule that lets one tenant to another's site breaks the cases of that pair, each by itself, and no other."""
    lab, items = standing
    before, text = lab.state(), lab.source[1]
    rule = "{name: tenant-2, from: pool/tenant-2,"
    leak = f"{{name: leak, from: pool/tenant-1, to: site-2, port: 9001, allow: true}}\n      - {rule}"
    wider = text.replace(rule, leak)
    assert wider != text
    lab.change(make_plan(parse_lab(parse(wider.encode(), "lab.yaml")), lab.plan))
    try:
        results, _ = run(lab, items)
    finally:
        lab.restore(before)
    for result in results:
        leaks = result.item.source.startswith("tenant-1/") and result.item.to == "tcp://site-2:9001"
        assert result.verdict.state == ("broken" if leaks else "held"), str(result.verdict)
        if leaks:
            assert "site-2" in {finding.at for finding in result.verdict.reasons}


def test_a_blind_tap_makes_unknown_what_it_would_have_seen(
    standing: tuple[NamespaceLab, tuple[Item, ...]],
) -> None:
    """With the tap of one site blind, what is said of that site is unknown, allowed or denied, and nothing else."""
    lab, items = standing
    lab.blind("site-3")
    some = [item for item in items if "site-3" in str(item.to) or item.scenario.name.startswith("tenant-1")]
    results, _ = run(lab, tuple(some))
    for result in results:
        concerns = str(result.item.to).startswith("tcp://site-3:")
        assert result.verdict.state == ("unknown" if concerns else "held"), str(result.verdict)
