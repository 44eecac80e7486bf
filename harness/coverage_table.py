"""`egresslab coverage`: runs a lab's scenarios, and lists what of the lab none of their flows exercised."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from harness import shipped, source
from harness.commands import items_for, lab_for, name_for
from harness.exercised import Exercised, Part, exercised
from harness.lab import load_lab
from harness.look import table
from harness.run import Result, Session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.running import Driver
    from harness.source import Document


def show_coverage(  # noqa: PLR0913 - the options of one command
    lab_name: str,
    paths: Sequence[Path],
    name: str | None,
    driver: Driver,
    *,
    as_json: bool,
    every: bool,
) -> int:
    """Run scenarios and print what they did not exercise; returns the exit code.

    1 when a part of the lab was not exercised or a scenario is broken, 3 when one is unknown, 5 without scenarios.
    """
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    items = items_for(path, paths)
    if not items:
        click.echo(f"{lab.lab}: no scenarios", err=True)
        return 5
    with lab_for(driver, lab, path, name or name_for(lab.lab, "never", driver)) as (running, _):
        session = Session(running, items)
        results = [session.run(item) for item in items]
        met = exercised(results, running.plan, running.bindings)
        document = source.parse(running.source[1].encode(), os.path.relpath(path))
    if as_json:
        found = {"lab": lab.lab, "parts": [_data(part, case, document) for part, case in met.by.items()]}
        click.echo(json.dumps(found, indent=2))
    else:
        _print(lab.lab, results, met, document, every=every)
    states = {result.verdict.state for result in results}
    return 1 if met.missing or "broken" in states else 3 if "unknown" in states else 0


def _print(lab: str, results: Sequence[Result], met: Exercised, document: Document, *, every: bool) -> None:
    for result in results:
        if result.verdict.state != "held":
            click.echo(f"{result.item.id}: {result.verdict}", err=True)
    if every:
        table(
            ("PART", "WHERE", "BY"),
            [(str(part), _place(part, document), case or "-") for part, case in met.by.items()],
        )
    else:
        for part in met.missing:
            click.echo(f"not exercised: {_place(part, document)}: {part}")
    click.echo(f"{lab}: {len(results)} cases {met}")


def _place(part: Part, document: Document) -> str:
    loc = tuple("from" if one == "from_" else one for one in part.loc)
    line, _ = document.position(loc, key=isinstance(loc[-1], str))
    return f"{document.path}:{line}"


def _data(part: Part, case: str | None, document: Document) -> dict[str, object]:
    return {"kind": part.kind, "name": part.name, "place": _place(part, document), "by": case}
