"""`egresslab learn`: stands a lab up, sends each pod everywhere, and writes what came of it as a scenario file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness import shipped
from harness.commands import lab_for, name_for
from harness.errors import InputError
from harness.lab import load_lab
from harness.learned import learn
from harness.scenario import Allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.learned import Draft
    from harness.running import Driver
    from harness.scenario import Denied


def write_learned(lab_name: str, name: str | None, out: Path | None, driver: Driver) -> int:
    """Print the drafted scenario file, or write it to `out`; returns the exit code.

    3 when of some flow nothing could be told, 5 when the lab has no pod or no destination, else 0.
    """
    if out is not None and out.exists():
        raise InputError(f"{out}: the file exists already; name another")
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    with lab_for(driver, lab, path, name or name_for(lab.lab, "never", driver)) as (running, _):
        drafts = learn(running)
    if not drafts:
        click.echo(f"{lab.lab}: no pod, or nowhere to send it", err=True)
        return 5
    known = shipped.shipped_labs().get(lab.lab)
    named = known is not None and known.resolve() == path.resolve()
    folder = out.parent if out is not None else Path()
    text = "\n".join(lines(lab.lab if named else os.path.relpath(path, folder), drafts)) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        click.echo(f"wrote {out}: {len(drafts)} scenarios; next: egresslab test {out}")
    return 3 if any(draft.expect is None for draft in drafts) else 0


def lines(lab: str, drafts: Sequence[Draft]) -> Iterator[str]:
    """Yield the lines of a scenario file; what could not be told is a comment."""
    yield "# Drafted by `egresslab learn`: what this lab let pass and what it denied. Read it before you believe it."
    yield f"lab: {_quoted(lab)}"
    yield "scenarios:"
    for draft in drafts:
        if draft.expect is None:
            yield f"  # nothing could be told of {draft.destination} from {', '.join(draft.pods)}"
            continue
        word = next(
            one for one in ("allowed", "rejected", "dropped") if getattr(draft.expect, one) is not None
        )
        outcome = getattr(draft.expect, word)
        yield f"  - name: {_quoted(draft.name)}"
        yield f"    from: [{', '.join(draft.pods)}]"
        yield f"    to: {draft.destination.to}"
        if draft.destination.through:
            yield f"    through: {draft.destination.through}"
        if draft.destination.bypass:
            yield "    bypass: sidecar"
        if draft.control:
            yield f"    control: {_quoted(draft.control)}"
        yield "    expect:"
        yield f"      {word}: {{{', '.join(_said(outcome))}}}"


def _said(outcome: Allowed | Denied) -> Iterator[str]:
    if isinstance(outcome, Allowed):
        yield f"path: [{', '.join(outcome.path)}]"
        return
    yield f"at: {outcome.at}"
    if outcome.by:
        yield f"by: {outcome.by}"
    if outcome.unseen_by:
        yield f"unseen_by: [{', '.join(outcome.unseen_by)}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
