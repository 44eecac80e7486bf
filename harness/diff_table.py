"""`egresslab diff`: what differs between two runs, told for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from harness.run_diff import Comparison, RunFile, compare, read_run

FACTOR = 2.0
"""How many times as long a flow takes before it is told of."""


def show_difference(before: Path, after: Path, factor: float | None, *, as_json: bool) -> int:
    """Print what differs; returns the exit code: 0 the same, 1 different.

    Times count only with a `factor`; without, those that differ by FACTOR are told of. Raises InputError for what is no
    run, or a run of another lab.
    """
    one, other = read_run(before), read_run(after)
    found = compare(one, other, factor or FACTOR)
    differs = found.differs or bool(factor and found.slower)
    if as_json:
        click.echo(json.dumps({"differs": differs, **asdict(found)}, indent=2))
    else:
        for line in lines(one, other, found, counts=factor is not None):
            click.echo(line)
    return 1 if differs else 0


def lines(one: RunFile, other: RunFile, found: Comparison, *, counts: bool = False) -> Iterator[str]:
    """Yield what differs, the most telling first; `counts` says that times do."""
    for name, changes in found.changed.items():
        yield f"≠ {name}"
        for change in changes:
            yield f"    {change.what:<8} was {change.before}"
            yield f"    {'':<8} now {change.after}"
    yield from (f"- {name}: only in {one.path}" for name in found.gone)
    yield from (f"+ {name}: only in {other.path}" for name in found.new)
    for name, (before, after) in sorted(found.slower.items(), key=lambda pair: pair[1][0] - pair[1][1]):
        word = "slower" if after > before else "faster"
        yield f"{'≠' if counts else '~'} {name}: {word}, {before * 1000:.0f} ms, now {after * 1000:.0f} ms"
    for change in found.around:
        yield f"  {change.what}: was {change.before}, now {change.after}"
    parts = {
        "differ": len(found.changed),
        "only in the first": len(found.gone),
        "only in the second": len(found.new),
        "the same": len(found.same),
    }
    yield f"{one.lab}: " + (
        ", ".join(f"{count} {word}" for word, count in parts.items() if count) or "no flows"
    )
