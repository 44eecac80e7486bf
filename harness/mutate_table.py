"""`egresslab mutate`: has each mutant of a lab tried, and prints those that no scenario catches, by file and line."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import click

from harness import shipped, source
from harness.accepted import Accepted
from harness.capabilities import runnable
from harness.commands import items_for
from harness.errors import InputError, MissingCapability
from harness.lab import load_lab
from harness.mutants import Mutant, in_file, mutants
from harness.mutate import Baseline, Tried, baseline, hunt
from harness.plan import make_plan
from harness.run import Result, Session
from harness.running import MutableLab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harness.running import Driver
    from harness.scenario import Item
    from harness.source import Document


def show_mutants(  # noqa: PLR0913 - the options of one command
    lab_name: str,
    paths: Sequence[Path],
    words: str,
    copies: int,
    driver: Driver,
    *,
    as_json: bool,
    listed: bool,
    verbose: bool,
) -> int:
    """Try a lab's mutants and print what came of them; returns the exit code.

    1 when a mutant was missed that `mutants.yaml` does not accept, or one that it accepts was caught, or a scenario
    does not hold on the lab as it is; 3 when a mutant could not be tried; 5 without mutants or scenarios.
    """
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    items = items_for(path, paths)
    able, skipped = runnable(items, lab, driver.missing, ())
    items = tuple(able)
    for left in skipped:
        click.echo(f"{left.item.id}: skipped, {left}", err=True)
    accepted = Accepted(path)
    text = path.read_text(encoding="utf-8")
    document = source.parse(text.encode(), os.path.relpath(path))
    begun = time.monotonic()

    def start(number: int = 0) -> MutableLab:
        name = f"{lab.lab}-mutants-{os.getpid()}.{number}"
        running = driver.up(make_plan(lab), name, (str(path.resolve()), text), owned=True)
        if not isinstance(running, MutableLab):
            raise MissingCapability("mutants", "this driver cannot run something else than a lab says")
        return running

    first = start()
    try:
        chosen = [mutant for mutant in _every(first, accepted) if words in mutant.name]
        if listed:
            click.echo("\n".join(f"{place(mutant, document)}  {mutant}" for mutant in chosen))
            return 0
        if not chosen or not items:
            click.echo(f"{lab.lab}: no {'mutants' if items else 'scenarios'}", err=True)
            return 5
        results = _as_it_is(first, items)
    finally:
        first.close()
    if results is None:
        return 1
    known = baseline(items, results)
    tried = []
    for one in _side_by_side(start, chosen, known, copies):
        tried.append(one)
        if verbose:
            by = f"  by {one.by}" if one.by else ""
            click.echo(f"{one.fate:<7} {one.seconds:5.1f} s  {one.mutant}{by}")
    tried.sort(key=lambda one: chosen.index(one.mutant))
    return _report(lab.lab, tried, accepted, document, items, time.monotonic() - begun, as_json=as_json)


def _every(lab: MutableLab, accepted: Accepted) -> Sequence[Mutant]:
    """Return the mutants of a lab; raises InputError for an exception that is for none of them."""
    routes = {node.name: lab.routing(node.name).kernel for node in lab.plan.nodes}
    every = mutants(lab.plan, lab.bindings, routes)
    problems = tuple(accepted.unknown([mutant.name for mutant in every]))
    if problems:
        raise InputError(*problems)
    return every


def _as_it_is(lab: MutableLab, items: Sequence[Item]) -> Sequence[Result] | None:
    """Run every case on the lab as it is; None, and a word of each, when some do not hold."""
    session = Session(lab, items)
    results = [session.run(item) for item in items]
    wrong = [result for result in results if result.verdict.state != "held"]
    for result in wrong:
        click.echo(f"{result.item.id}: {result.verdict}", err=True)
    if wrong:
        click.echo("these must hold on the lab as it is before mutants say anything", err=True)
    return None if wrong else results


def _side_by_side(
    start: Callable[[int], MutableLab], chosen: Sequence[Mutant], known: Baseline, copies: int
) -> Iterator[Tried]:
    """Try mutants on several copies of the lab at once; whoever is free takes the next."""
    waiting: SimpleQueue[Mutant] = SimpleQueue()
    for mutant in chosen:
        waiting.put(mutant)
    done: SimpleQueue[Tried | None] = SimpleQueue()

    def left() -> Iterator[Mutant]:
        while True:
            try:
                yield waiting.get_nowait()
            except Empty:
                return

    def work(number: int) -> None:
        try:
            for one in hunt(lambda: start(number), left(), known):
                done.put(one)
        finally:
            done.put(None)

    with ThreadPoolExecutor(copies, "mutants") as pool:
        working = [pool.submit(work, number) for number in range(copies)]
        ended = 0
        while ended < copies:
            found = done.get()
            if found is None:
                ended += 1
            else:
                yield found
        for one in working:
            one.result()


def place(mutant: Mutant, document: Document) -> str:
    """Return where in the lab file a mutant is, as `path:line`."""
    loc = in_file(mutant.loc)
    line, _ = document.position(loc, key=bool(loc) and isinstance(loc[-1], str))
    return f"{document.path}:{line}"


def _report(  # noqa: PLR0913 - all that is known at the end
    lab: str,
    tried: Sequence[Tried],
    accepted: Accepted,
    document: Document,
    items: Sequence[Item],
    seconds: float,
    *,
    as_json: bool,
) -> int:
    reasons = accepted.reasons
    caught = {one.mutant.name for one in tried if one.fate == "caught"}
    missed = [one for one in tried if one.fate == "missed" and one.mutant.name not in reasons]
    failed = [one for one in tried if one.fate == "failed"]
    excepted = [one for one in tried if one.fate == "missed" and one.mutant.name in reasons]
    stale = tuple(accepted.stale(caught))
    if as_json:
        found = {
            "lab": lab,
            "scenarios": len(items),
            "tried": [_data(one, document, reasons.get(one.mutant.name)) for one in tried],
            "stale": [str(problem) for problem in stale],
            "seconds": round(seconds, 1),
        }
        click.echo(json.dumps(found, indent=2))
    else:
        for one in missed:
            click.echo(f"missed: {place(one.mutant, document)}: {one.mutant}")
        for one in failed:
            click.echo(f"failed: {place(one.mutant, document)}: {one.mutant}: {one.seen}")
        for problem in stale:
            click.echo(f"stale: {problem}")
        for reason, number in Counter(reasons[one.mutant.name] for one in excepted).items():
            click.echo(f"accepted: {number}: {reason}")
        click.echo(
            f"{lab}: {len(tried)} mutants, {len(caught)} caught by {len(items)} cases, {len(excepted)} accepted, "
            f"{len(missed)} missed" + (f", {len(failed)} failed" if failed else "") + f"; in {seconds:.0f} s"
        )
        judged = len(tried) - len(failed)
        score = 100 * len(caught) / judged if judged else 0.0
        less = _less(caught, missed)
        click.echo(f"mutation score {score:.1f} %, less {len(excepted)} accepted: {less:.1f} %")
    return 1 if missed or stale else 3 if failed else 0


def _less(caught: set[str], missed: Sequence[Tried]) -> float:
    """Return the score in percent, accepted mutants left out."""
    judged = len(caught) + len(missed)
    return 100 * len(caught) / judged if judged else 100.0


def _data(one: Tried, document: Document, reason: str | None) -> dict[str, object]:
    return {
        "mutant": one.mutant.name,
        "place": place(one.mutant, document),
        "fate": "accepted" if one.fate == "missed" and reason else one.fate,
        **({"reason": reason} if reason else {}),
        "by": one.by,
        "seen": one.seen,
        "seconds": round(one.seconds, 2),
    }
