"""Shipped labs with an edit, and all of their scenarios, for tests that show what the edit breaks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml
from small_lab import Files, Standing

from harness import shipped, source
from harness.lab import load_lab
from harness.plan import make_plan
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.scenario import Item


CLIENT = "client"
"""In place of a hop: where each case's flow is from."""


@dataclass(frozen=True)
class Case:
    """An edit of the lab, the scenario that must notice, and what one of its reasons must say at which hop."""

    edit: Callable[[dict[str, Any]], None]
    scenario: str
    at: str
    says: str


def written(
    name: str, folder: Path, edit: Callable[[dict[str, Any]], None], *, scenarios: bool = True
) -> Files:
    """Write a shipped lab with an edit, and all of its scenarios, unless they are not wanted."""
    data = copy.deepcopy(source.read(shipped.find_lab(name)).data)
    edit(data)
    lab = folder / "lab.yaml"
    lab.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    items: list[Item] = []
    paths = shipped.scenario_paths(name) if scenarios else ()
    for path in paths:
        content = copy.deepcopy(source.read(path).data) | {"lab": "lab.yaml"}
        (folder / path.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for path in paths:
        items += load_scenarios(folder / path.name)
    return Files(lab, folder, tuple(items))


def assert_noticed(name: str, case: Case, sound: Standing, folder: Path) -> None:
    """Turn a running lab into the edited one for a while: each of the scenario's cases is broken, and names the hop."""
    files = written(name, folder, case.edit)
    before = sound.lab.state()
    sound.lab.change(make_plan(load_lab(files.lab), sound.lab.plan))
    try:
        results = Standing(sound.lab, _tried_once(files)).results(case.scenario)
    finally:
        sound.lab.restore(before)
    assert results
    for result in results:
        verdict = result.verdict
        assert verdict.state == "broken", str(verdict)
        at = result.item.source if case.at == CLIENT else case.at
        assert any(reason.at == at and case.says in str(reason) for reason in verdict.reasons), str(verdict)


def _tried_once(files: Files) -> Files:
    """Return the same with cases that are tried once, whatever time their file gives them: broken ones take all of it.

    A lab that was changed while it ran is ready when the change is done.
    """
    once = (
        item.model_copy(update={"scenario": item.scenario.model_copy(update={"within": None})})
        for item in files.items
    )
    return replace(files, items=tuple(once))
