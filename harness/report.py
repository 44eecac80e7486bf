"""Where a run's results go: a folder per run, `latest` pointing to it, one plug per form of output."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import lookup
from harness.capabilities import Skipped
from harness.evidence import State
from harness.run import Result
from harness.running import RunningLab

MANY = 20
"""Cases of a scenario; of more than so many, those that held are summed up, and those that did not are told first."""
MOST_TOLD = 20
"""How many cases of such a scenario that did not hold are told in full."""
FILES = ("jsonl", "junit", "tap", "table", "tenants", "capture", "html")

BUNDLE = "bundle.tgz"
"""In the folder of a run of which something is broken or unknown: all that is needed to look into it elsewhere."""


@dataclass(frozen=True)
class Summary:
    """A run as a whole: what ran on which lab, with what components, and for how long (seconds).

    `secrets` says whether files may hold those of the lab's TLS connections.
    """

    lab: str
    title: str
    driver: str
    results: tuple[Result, ...]
    phases: tuple[tuple[str, float], ...]
    versions: dict[str, str]
    started: dt.datetime
    seconds: float
    secrets: bool = True
    skipped: tuple[Skipped, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many results of each state, in the order held, broken, unknown."""
        states = [result.verdict.state for result in self.results]
        return {state: states.count(state) for state in ("held", "broken", "unknown")}

    @property
    def failed(self) -> bool:
        """Whether something is broken or unknown."""
        return any(result.verdict.state != "held" for result in self.results)

    @property
    def exit_code(self) -> int:
        """0 all held, 1 broken, 3 unknown or skipped although nobody said that it may be, 5 nothing selected."""
        counts = self.counts
        if not self.results and not self.skipped:
            return 5
        unproven = counts["unknown"] or any(not one.allowed for one in self.skipped)
        return 1 if counts["broken"] else 3 if unproven else 0

    @property
    def words(self) -> str:
        """How many of each state, and how many were skipped, in words."""
        counts = [f"{number} {state}" for state, number in self.counts.items() if number]
        return ", ".join(counts + ([f"{len(self.skipped)} skipped"] if self.skipped else []))


def by_scenario(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results of each scenario, in the order of their first cases."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.item.path, result.item.scenario.name), []).append(result)
    return list(groups.values())


def worst(results: Sequence[Result]) -> State:
    """Return the state that stands for several results."""
    states = {result.verdict.state for result in results}
    order: tuple[State, ...] = ("broken", "unknown", "held")
    return next(state for state in order if state in states)


def told(results: Sequence[Result]) -> list[Result]:
    """Return the results that a report of limited length tells in full: all, but for scenarios of many cases.

    Of those the first that did not hold, broken before unknown; where all held, one.
    """
    found: set[int] = set()
    for group in by_scenario(results):
        if len(group) <= MANY:
            found |= set(map(id, group))
            continue
        failed = sorted(
            (result for result in group if result.verdict.state != "held"), key=lambda one: one.verdict.state
        )
        found |= set(map(id, failed[:MOST_TOLD] or group[:1]))
    return [result for result in results if id(result) in found]


def write(summary: Summary, lab: RunningLab | None, out: Path) -> Path:
    """Write every file of a run below `out`/<lab>/ and return its folder."""
    stamp = summary.started.strftime("%Y-%m-%dT%H-%M-%S")
    parent = out / summary.lab
    folder = _new_folder(parent, stamp)
    for name in FILES:
        lookup.find("reports", name).write(summary, lab, folder)
    link = parent / f".latest-{os.getpid()}"
    link.symlink_to(folder.name)
    link.replace(parent / "latest")
    return folder


def _new_folder(parent: Path, stamp: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        folder = parent / (stamp if number == 0 else f"{stamp}.{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(parent / stamp)
