"""What the commands `test` and `up` do."""

from __future__ import annotations

import datetime as dt
import fnmatch
import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from harness import bigip, capabilities, graph, lookup, shipped, source, tools
from harness.capture import check_name
from harness.engine_choice import has_proxies, with_engine
from harness.errors import InputError, LabError, MissingCapability, Problem
from harness.lab import Lab, load_lab, parse_lab
from harness.plan import make_plan
from harness.report import Summary, write
from harness.run import WINDOW_SECONDS, Result, Session
from harness.running import ChangeableLab, Driver, RunningLab
from harness.scenario import Item, load_scenarios


def run_tests(  # noqa: PLR0913 - the options of one command
    paths: Sequence[Path],
    lab_name: str | None,
    name: str | None,
    words: str,
    label: str,
    keep: str,
    engine: str,
    out: Path,
    no_secrets: bool,  # noqa: FBT001 - as above
    verbose: int,
    allow_missing: Sequence[str],
    driver: Any,
) -> int:
    """Run scenarios lab by lab and return the exit code of the worst."""
    capabilities.check_names(allow_missing)
    labs = dict(collect(paths, lab_name))
    texts = {path: text_of(path, engine) for path in labs}
    if engine and not any(has_proxies(text, str(path)) for path, text in texts.items()):
        raise InputError(f"--engine {engine}: none of these labs has an egress proxy")
    codes = []
    for path, items in labs.items():
        lab = parse_lab(source.parse(texts[path].encode(), str(path)))
        chosen = [item for item in items if _selected(item, words, label, lab)]
        options = (name, keep, out, not no_secrets, verbose, driver, allow_missing)
        codes.append(run_items(lab, path, texts[path], chosen, *options))
    for code in (2, 4, 1, 3):
        if code in codes:
            return code
    return 0 if 0 in codes else 5


def text_of(path: Path, engine: str) -> str:
    """Return a lab file's text, with another engine in its egress proxies where one is named."""
    text = path.read_text(encoding="utf-8")
    return with_engine(text, str(path), engine) if engine else text


def collect(paths: Sequence[Path], lab_name: str | None) -> Iterator[tuple[Path, tuple[Item, ...]]]:
    """Yield each lab with its items; every file is read before any lab is started."""
    only = shipped.find_lab(lab_name) if lab_name else None
    lab = load_lab(only) if only else None
    by_lab: dict[Path, list[Item]] = {only: []} if only else {}
    problems: list[Problem | str] = []
    for file in dict.fromkeys(_files(paths, only, lab)):
        try:
            for item in load_scenarios(file, lab, check_name):
                by_lab.setdefault(only or shipped.lab_of(file), []).append(item)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    for lab_path, items in by_lab.items():
        yield lab_path, tuple(items)


def items_for(path: Path, paths: Sequence[Path]) -> tuple[Item, ...]:
    """Return a lab's items from these files and folders, or without any its own."""
    found = collect(paths, None if paths else str(path))
    return tuple(item for whose, items in found for item in items if whose.resolve() == path.resolve())


def _files(paths: Sequence[Path], only: Path | None, lab: Lab | None) -> Iterator[Path]:
    """Yield the scenario files meant: those of a lab, of the paths, or with neither all that are shipped."""
    if only is not None and lab is not None:
        yield from shipped.scenario_paths(lab.lab)
        yield from sorted((only.parent / "scenarios").glob("*.yaml"))
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        yield from sorted(path.rglob("*.yaml")) if path.is_dir() else (path,)
    if only is None and not paths:
        for name in shipped.shipped_labs():
            yield from shipped.scenario_paths(name)


def run_items(  # noqa: PLR0913 - as above
    lab: Lab,
    path: Path,
    text: str,
    selected: Sequence[Item],
    name: str | None,
    keep: str,
    out: Path,
    secrets: bool,  # noqa: FBT001 - as above
    verbose: int,
    driver: Driver,
    allow_missing: Sequence[str] = (),
) -> int:
    """Run these cases on a lab, print and write what came of them, and return the exit code."""
    from harness.reports.terminal import Terminal  # noqa: PLC0415 - rich is for those who run something

    started = dt.datetime.now(dt.UTC).astimezone()
    begun = time.monotonic()
    results: list[Result] = []
    with Terminal(verbose=verbose) as terminal:
        if not selected:
            terminal.console.print(f"{lab.lab}: nothing selected")
            return 5
        runs, skipped = capabilities.runnable(selected, lab, driver.missing, allow_missing)
        running: RunningLab | None = None
        with ExitStack() as stack:
            if runs:
                terminal.doing(f"standing up {lab.lab}")
                name = name or name_for(lab.lab, keep, driver)
                running, failed = stack.enter_context(
                    lab_for(driver, lab, path, name, keep, text, secrets=secrets)
                )
                instead = (*driver.STANDS_IN, *capabilities.stand_ins(lab, running.plan.lab))
                terminal.up(lab.lab, running.phases, time.monotonic() - begun, instead)
                terminal.expect(runs)
                session = Session(running, runs, lambda item: terminal.doing(f"trying {item}"))
                for item in runs:
                    results.append(session.run(item))
                    failed.append(results[-1].verdict.state != "held")
                    terminal.result(results[-1])
            for one in skipped:
                terminal.skipped(one)
            summary = Summary(
                lab.lab,
                lab.title,
                driver.__name__.rpartition(".")[2],
                tuple(results),
                running.phases if running else (),
                tools.versions(),
                started,
                time.monotonic() - begun,
                secrets,
                tuple(skipped),
            )
            folder = write(summary, running, out)
            if summary.failed:
                from harness.bundle import write_bundle  # noqa: PLC0415 - and the doctor with it

                write_bundle(summary, running, folder)
            terminal.summary(summary, os.path.relpath(folder))
    return summary.exit_code


@contextmanager
def lab_for(  # noqa: PLR0913 - what a lab is, and how long
    driver: Driver,
    lab: Lab,
    path: Path,
    name: str,
    keep: str = "never",
    text: str | None = None,
    *,
    secrets: bool = False,
) -> Iterator[tuple[RunningLab, list[bool]]]:
    """Yield the lab that is up by that name, or one that ends with us (unless it is to be kept).

    Beside it comes a list for the caller: whether each result failed. `text` is the file's, unless it is to be
    another (`--engine`); `secrets` has a lab that is started log those of TLS connections.
    Raises InputError when the lab that is up was made from another text.
    """
    text = path.read_text(encoding="utf-8") if text is None else text
    failed: list[bool] = []
    if name in driver.running():
        running = driver.attach(name)
        if running.source[1] != text:
            running.close()
            raise InputError(
                f"{path}: the lab {name!r} that is up was made from another version of this file, "
                "or with another --engine; "
                f"`egresslab apply {shlex.quote(os.path.relpath(path))}` shows the difference and changes the lab"
            )
        try:
            yield running, failed
        finally:
            running.close()
        return
    kept = keep != "never"
    origin = str(path.resolve()), text
    running = driver.up(make_plan(lab), name, origin, owned=not kept, secrets=secrets)
    try:
        yield running, failed
    finally:
        running.close()
        if kept and not (keep == "always" or any(failed)):
            driver.down(name)


def name_for(lab: str, keep: str, driver: Driver) -> str:
    """Return the lab's own name when it is up or is to stay, else one of this process: others may run it too."""
    return lab if keep != "never" or lab in driver.running() else f"{lab}-{os.getpid()}"


def _selected(item: Item, words: str, label: str, lab: Lab) -> bool:
    labels = {*item.scenario.labels, f"article-{lab.article}"}
    matches = not words or words in item.id or fnmatch.fnmatch(item.id, words)
    return matches and (not label or label in labels)


def stand_up(  # noqa: PLR0913 - the options of one command
    lab: str,
    name: str | None,
    engine: str,
    no_secrets: bool,  # noqa: FBT001 - as above
    verbose: int,
    driver: Driver,
) -> None:
    """Stand up a lab that stays, with another engine in its egress proxies where one is named."""
    path = shipped.find_lab(lab)
    text = text_of(path, engine)
    if engine and not has_proxies(text, str(path)):
        raise InputError(f"--engine {engine}: this lab has no egress proxy")
    read = parse_lab(source.parse(text.encode(), str(path)))
    name = name or read.lab
    begun = time.monotonic()
    running = driver.up(
        make_plan(read), name, (str(path.resolve()), text), owned=False, secrets=not no_secrets
    )
    try:
        pods = len(running.plan.pods)
        click.echo(
            f"lab {name} is up after {time.monotonic() - begun:.2f} s: {pods} pods, {len(running.plan.nodes)} nodes"
        )
        for words in (*driver.STANDS_IN, *capabilities.stand_ins(read, running.plan.lab)):
            click.echo(f"  {words}")
        if verbose:
            for phase, seconds in running.phases:
                click.echo(f"  {phase:<16} {seconds:6.3f} s")
    finally:
        running.close()


def render_bigip(lab_name: str, driver: Driver) -> None:
    """Print the AS3 declaration of a lab's egress proxies."""
    plan = make_plan(load_lab(shipped.find_lab(lab_name)))
    click.echo(json.dumps(bigip.declaration(plan, driver.binding(plan)), indent=2))


def draw(lab_name: str, form: str, driver: Driver) -> None:
    """Print a lab's topology as `mermaid` or `svg`."""
    plan = make_plan(load_lab(shipped.find_lab(lab_name)))
    drawn = graph.svg if form == "svg" else graph.mermaid
    click.echo(drawn(plan, driver.binding(plan)).rstrip("\n"))


def only_lab(driver: Driver, name: str | None) -> str:
    """Return the named lab, or the only one that is up; raises LabError."""
    names = list(driver.running())
    if name is not None:
        if name not in names:
            raise LabError(f"no lab named {name!r} is up; {lookup.nearest(name, names)}")
        return name
    if not names:
        raise LabError("no lab is up; `egresslab up bookinfo-egress` stands one up")
    if len(names) > 1:
        raise LabError(f"several labs are up ({', '.join(names)}); say which with --lab or EGRESSLAB_LAB")
    return names[0]


def apply_file(lab_name: str, name: str | None, driver: Driver) -> None:
    """Turn a running lab into what its file says now, and print what changed."""
    path = shipped.find_lab(lab_name)
    lab = load_lab(path)
    text = path.read_text(encoding="utf-8")
    running = driver.attach(name or lab.lab)
    try:
        if not isinstance(running, ChangeableLab):
            raise MissingCapability("steps", "this driver cannot change a lab that is up")
        if running.source[1] == text:
            click.echo(f"lab {running.name} is what {os.path.relpath(path)} says")
            return
        with running.window(WINDOW_SECONDS):
            words = running.change(make_plan(lab, running.plan), source=(str(path.resolve()), text))
        for line in words or ("nothing but words of the file changed",):
            click.echo(line)
        click.echo(f"lab {running.name} is what {os.path.relpath(path)} says now")
    finally:
        running.close()
