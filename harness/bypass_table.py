"""`egresslab bypass`: stands the lab up, has every way out tried, and prints the matrix, differences first."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from harness import shipped
from harness.bypass import Fate, Tried, attempt
from harness.commands import lab_for, name_for
from harness.lab import load_lab
from harness.look import table
from harness.ways_out import NOT_TRIED, Target, ways

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.running import Driver

_ORDER: tuple[Fate, ...] = ("out", "unknown", "permitted", "denied", "kept")
_MOST_PASSPORTS = 3


def show_ways_out(lab_name: str, name: str | None, driver: Driver, *, as_json: bool) -> int:
    """Print what came of every way out; returns the exit code.

    1 when something got out that no proxy, gateway or firewall rule permitted, 3 when something is not known, 5 when
    there is no way to try, else 0. Uses the lab that is up by that name, or stands it up for this time.
    """
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    with lab_for(driver, lab, path, name or name_for(lab.lab, "never", driver)) as (running, _):
        tried = tuple(attempt(running, ways(running)))
    if not tried:
        click.echo(f"{lab.lab}: no pod, or nothing outside", err=True)
        return 5
    if as_json:
        found = {"lab": lab.lab, "tried": [_data(one) for one in tried], "not_tried": NOT_TRIED}
        click.echo(json.dumps(found, indent=2))
    else:
        for line in _holes(tried):
            click.echo(line)
        table(("TARGET", "WAY", "FATE", "AT", "BY", "PODS"), list(rows(tried)))
        counts = Counter(one.fate for one in tried)
        click.echo(f"{len(tried)} ways out: " + ", ".join(f"{counts[fate]} {fate}" for fate in _ORDER))
        for line in NOT_TRIED:
            click.echo(f"not tried: {line}")
    fates = {one.fate for one in tried}
    return 1 if "out" in fates else 3 if "unknown" in fates else 0


def _holes(tried: Sequence[Tried]) -> Iterator[str]:
    """Yield what got out and what is not known, the first few with their passports."""
    wrong = sorted((one for one in tried if one.passport), key=lambda one: _ORDER.index(one.fate))
    for number, one in enumerate(wrong):
        round_it = " round its sidecar" if one.way.bypass else ""
        yield f"{one.fate}: {one.way.pod} to {one.way.target}{round_it}: at {one.at or 'a hop'}: {one.by}"
        if number < _MOST_PASSPORTS:
            yield from (f"    {line}" for line in one.passport)


def rows(tried: Sequence[Tried]) -> Iterator[tuple[str, ...]]:
    """Yield the matrix: of each target and way a row for each fate, with the pods that met it.

    Targets with what must not be come first, then those where pods differ, then the others in the order of the lab.
    """
    pods: dict[tuple[Target, bool], dict[tuple[Fate, str, str], list[str]]] = {}
    for one in tried:
        cell = pods.setdefault((one.way.target, one.way.bypass), {})
        cell.setdefault((one.fate, one.at, one.by), []).append(one.way.pod)
    for (target, bypass), cells in sorted(pods.items(), key=lambda item: _rank(item[1])):
        for (fate, at, by), names in sorted(cells.items(), key=lambda item: _ORDER.index(item[0][0])):
            whose = f"all {len(names)}" if len(cells) == 1 and len(names) > 1 else ", ".join(names)
            yield (str(target), "round sidecar" if bypass else "as usual", fate, at, by, whose)


def _rank(cells: dict[tuple[Fate, str, str], list[str]]) -> tuple[int, int]:
    worst = min(_ORDER.index(fate) for fate, _, _ in cells)
    return (min(2, worst), -len(cells))


def _data(one: Tried) -> dict[str, object]:
    way = asdict(one.way)
    return {**way, "fate": one.fate, "at": one.at, "by": one.by, "passport": list(one.passport)}
