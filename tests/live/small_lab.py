"""Small labs for tests: the shipped lab with few workloads, edited as a test needs, and its scenarios."""

from __future__ import annotations

import copy
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from harness import shipped, source
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.run import Result, Session
from harness.scenario import Item, load_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


SHIPPED = "bookinfo-egress"
ALLOWED = "bookinfo reaches the internet from its own address"
REJECTED = "another namespace is reset by the proxy"


@dataclass(frozen=True)
class Files:
    """A lab file and its scenario file, and the cases that the latter comes to."""

    lab: Path
    scenarios: Path
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Standing:
    """A small lab that runs."""

    lab: NamespaceLab
    files: Files

    def results(self, scenario: str) -> tuple[Result, ...]:
        """Run every case of a scenario, its control first."""
        session = self.session()
        return tuple(session.run(item) for item in self.items(scenario))

    def session(self) -> Session:
        """Begin a run of scenarios; controls are run once for it."""
        return Session(self.lab)

    def items(self, scenario: str) -> tuple[Item, ...]:
        """Return the cases of a scenario."""
        return tuple(item for item in self.files.items if item.scenario.name == scenario)


def write(
    folder: Path, scenarios: Sequence[str], edit: Callable[[dict[str, Any]], None] | None = None
) -> Files:
    """Write a lab of three pods (and DNS) on one cluster node, and the named scenarios of the shipped lab.

    One node needs no BGP, and few sidecars start quickly. `edit` changes the lab file's data in place.
    """
    data = copy.deepcopy(source.read(shipped.find_lab(SHIPPED)).data)
    data["cluster"]["nodes"] = ["server-0"]
    del data["cluster"]["bgp"]
    keep = {"bookinfo": ("traffic-generator",), "sm-apigw-a": ("nettools",), "outsiders": ("bare",)}
    for namespace, names in keep.items():
        workloads = data["namespaces"][namespace]["workloads"]
        data["namespaces"][namespace]["workloads"] = {name: workloads[name] for name in names}
    if edit is not None:
        edit(data)
    lab = folder / "lab.yaml"
    lab.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    wanted = {ALLOWED, *scenarios}
    found = [
        scenario
        for path in shipped.scenario_paths(SHIPPED)
        for scenario in source.read(path).data["scenarios"]
        if scenario["name"] in wanted
    ]
    assert {scenario["name"] for scenario in found} == wanted
    path = folder / "scenarios.yaml"
    path.write_text(
        yaml.safe_dump({"lab": "lab.yaml", "scenarios": found}, sort_keys=False), encoding="utf-8"
    )
    return Files(lab, path, load_scenarios(path))


def own_name(word: str) -> str:
    """Return a lab name that no other process uses at the same time."""
    return f"{word}-{os.getpid()}"


@contextmanager
def standing(files: Files, name: str) -> Iterator[Standing]:
    """Stand a written lab up for the time of a `with` block."""
    text = (str(files.lab), files.lab.read_text(encoding="utf-8"))
    lab = stand_up(make_plan(load_lab(files.lab)), name, text, owned=True)
    try:
        yield Standing(lab, files)
    finally:
        lab.close()
