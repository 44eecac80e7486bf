"""A shipped lab's plan, and the cases of its scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import shipped
from harness.capture import check_name
from harness.lab import load_lab
from harness.plan import make_plan
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.scenario import Item


def plan_of(name: str) -> Plan:
    """Return the plan of a shipped lab."""
    return make_plan(load_lab(shipped.find_lab(name)))


def items_of(name: str) -> list[Item]:
    """Return every case of a shipped lab."""
    lab = load_lab(shipped.find_lab(name))
    paths = shipped.scenario_paths(name)
    return [item for path in paths for item in load_scenarios(path, lab, check_name)]
