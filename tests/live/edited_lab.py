"""Shipped labs with an edit, and all of their scenarios, for tests that show what the edit breaks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml
from small_lab import Files

from harness import shipped, source
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.scenario import Item


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


def tried_once(files: Files) -> Files:
    """Return the same with cases that are tried once, whatever time their file gives them: broken ones take all of it.

    For a lab that was changed while it ran, which is ready when the change is done.
    """
    once = (
        item.model_copy(update={"scenario": item.scenario.model_copy(update={"within": None})})
        for item in files.items
    )
    return replace(files, items=tuple(once))
