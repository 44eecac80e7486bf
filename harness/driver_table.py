"""`egresslab compare`: the same scenarios on several drivers, their verdicts side by side, differences first."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harness import capabilities, lookup, tools
from harness.commands import collect, lab_for, name_for, text_of
from harness.comparison import cell_of
from harness.errors import InputError, LabError
from harness.lab import load_lab
from harness.report import Summary, write
from harness.run import Result, Session
from harness.running import Driver
from harness.scenario import Item
from harness.shipped import find_lab

NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """What came of one case on one driver: its verdict, and in words what happened to the flow."""

    verdict: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.words}" if self.words else self.verdict


@dataclass(frozen=True)
class Column:
    """A driver's run: its cells by case, its exit code as `test` would give it, and why it did not run, if so."""

    driver: str
    cells: Mapping[str, Cell]
    exit_code: int
    failed: str = ""
    folder: str = ""

    def cell(self, case: str) -> Cell:
        """Return what came of a case."""
        return self.cells.get(case, Cell(NOT_RUN))


def show_drivers(lab_name: str, drivers: str, words: str, out: Path, *, as_json: bool) -> int:
    """Run a lab's scenarios on each driver, print them side by side; returns the exit code of the worst run."""
    names = [name.strip() for name in drivers.split(",") if name.strip()]
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise InputError(f"--drivers {drivers}: name two drivers or more, such as netns,k3d")
    try:
        modules = {name: lookup.find("drivers", name) for name in names}
    except lookup.UnknownName as error:
        raise InputError(f"--drivers: {error}") from error
    path = find_lab(lab_name)
    items = [item for _, found in collect((), lab_name) for item in found if words in item.id]
    if not items:
        click.echo(f"{lab_name}: nothing selected")
        return 5
    columns = [_run(name, module, path, items, out) for name, module in modules.items()]
    if as_json:
        click.echo(json.dumps(_plain(items, columns), indent=2))
    else:
        for line in lines([item.id for item in items], columns):
            click.echo(line)
    return worst([column.exit_code for column in columns])


def worst(codes: Sequence[int]) -> int:
    """Return the exit code that tells most, in the order of `egresslab test`."""
    return next((code for code in (2, 4, 1, 3) if code in codes), 0 if 0 in codes else 5)


def differs(case: str, columns: Sequence[Column]) -> bool:
    """Tell whether a case came out otherwise on one driver: in its verdict, or in what became of the flow."""
    return len({column.cell(case) for column in columns}) > 1


def lines(cases: Sequence[str], columns: Sequence[Column]) -> Iterator[str]:
    """Yield the table: differences first, those of verdicts before those of words, then what is the same."""
    width = max(len(column.driver) for column in columns)
    apart = [case for case in cases if differs(case, columns)]
    apart.sort(key=lambda case: len({column.cell(case).verdict for column in columns}) == 1)
    for case in apart:
        yield f"≠ {case}"
        yield from (f"    {column.driver:<{width}}  {column.cell(case)}" for column in columns)
    for case in cases:
        if case not in apart:
            yield f"= {case}"
            yield f"    {'all':<{width}}  {columns[0].cell(case)}"
    yield ""
    for column in columns:
        told = column.failed or f"{_counted(column)}; files in {column.folder}"
        yield f"{column.driver:<{width}}  {told}"
    yield f"{len(apart)} of {len(cases)} differ" if apart else f"all {len(cases)} the same"


def _counted(column: Column) -> str:
    verdicts = [cell.verdict for cell in column.cells.values()]
    counts = {word: verdicts.count(word) for word in ("broken", "unknown", "held", "skipped")}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing ran"


def _run(name: str, driver: Driver, path: Path, items: Sequence[Item], out: Path) -> Column:
    """Run the cases on one driver; one that cannot stand the lab up is a column that says so."""
    lab, text = load_lab(path), text_of(path, "")
    began, started = time.monotonic(), dt.datetime.now(dt.UTC).astimezone()
    results: list[Result] = []
    try:
        runs, skipped = capabilities.runnable(items, lab, driver.missing, ())
        cells = {one.item.id: Cell("skipped", str(one)) for one in skipped}
        if not runs:
            return Column(name, cells, 3, "every scenario was skipped")
        click.echo(f"{name}: standing up {lab.lab}", err=True)
        with lab_for(driver, lab, path, name_for(lab.lab, "never", driver), text=text) as (running, failed):
            session = Session(running, runs)
            for item in runs:
                results.append(session.run(item))
                failed.append(results[-1].verdict.state != "held")
                cells[item.id] = Cell(results[-1].verdict.state, _words(results[-1]))
            click.echo(f"{name}: {len(results)} flows in {time.monotonic() - began:.1f} s", err=True)
            summary = Summary(
                lab.lab,
                lab.title,
                name,
                tuple(results),
                running.phases,
                tools.versions(),
                started,
                time.monotonic() - began,
                False,  # noqa: FBT003 - no secrets are logged
                tuple(skipped),
            )
            folder = write(summary, running, out / name)
    except LabError as error:
        return Column(name, {}, error.exit_code, f"did not run: {error}")
    return Column(name, cells, summary.exit_code, folder=os.path.relpath(folder))


def _words(result: Result) -> str:
    """Return what came of a flow, without the verdict that stands beside it."""
    return cell_of(result).removesuffix(" (its scenario is broken)").removeprefix("unknown ")


def _plain(items: Sequence[Item], columns: Sequence[Column]) -> object:
    return {
        "drivers": {
            column.driver: {"exit_code": column.exit_code, "failed": column.failed, "folder": column.folder}
            for column in columns
        },
        "cases": [
            {
                "id": item.id,
                "differs": differs(item.id, columns),
                "verdicts": {
                    column.driver: {"verdict": cell.verdict, "words": cell.words}
                    for column in columns
                    for cell in (column.cell(item.id),)
                },
            }
            for item in items
        ],
    }
