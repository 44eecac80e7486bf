"""The terminal: progress while it runs, then a table that a human likes to read; plain when not a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.box import HORIZONTALS
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from harness.capabilities import Skipped
from harness.comparison import compare
from harness.correlation import correlate
from harness.evidence import State
from harness.exercised import of_run
from harness.explain import failure_lines, passport_lines
from harness.report import BUNDLE, MANY, MOST_TOLD, Summary, by_scenario, told, worst
from harness.run import Result
from harness.scenario import Item
from harness.verdict import outcome_of

_STYLES = {"held": "green", "broken": "bold red", "unknown": "yellow"}
_SHOWN = 3
"""How many of a scenario's many cases are told as the run goes."""
_ADDRESSES = 4
"""How many sources of a scenario's flows are named in its row."""
_PIPE_WIDTH = 200
"""Of the table of ways: a pipe has no width of its own, and rich would take 80 columns for it."""

_MOST_PARTS = 3
"""Of a lab that no flow exercised, named below the table; `egresslab coverage` names all."""

_MARKS = {"held": "✓", "broken": "✗", "unknown": "?"}


class Terminal:
    """Prints a run as it goes."""

    def __init__(self, *, verbose: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._status: Status | None = None
        self._cases: Counter[tuple[str, str]] = Counter()
        self._waiting: list[Result] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quiet()

    def doing(self, what: str) -> None:
        """Show what is being done now; a line that goes away on a terminal, nothing elsewhere."""
        if not self.console.is_terminal:
            return
        if self._status is None:
            self._status = self.console.status(Text(what))
            self._status.start()
        else:
            self._status.update(Text(what))

    def quiet(self) -> None:
        """Take the progress line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def up(
        self,
        lab: str,
        phases: tuple[tuple[str, float], ...],
        seconds: float,
        stand_ins: Sequence[str] = (),
    ) -> None:
        """Say that a lab stands, what in it stands in for something else, and with -v how long each phase took."""
        self.quiet()
        self.console.print(Text.assemble("lab ", (lab, "bold"), f" is up after {seconds:.2f} s"))
        for words in stand_ins:
            self.console.print(Text(f"  {words}", "yellow"))
        if self._verbose:
            for name, took in phases:
                self.console.print(f"  {name:<16} {took:6.3f} s")

    def expect(self, items: Sequence[Item]) -> None:
        """Say what will be tried: scenarios of many cases are told in one line each, with what did not hold."""
        self._cases = Counter((item.path, item.scenario.name) for item in items)

    def result(self, result: Result) -> None:
        """Print one result, with its passport when it did not hold or -v asks for it."""
        scenario = result.item.path, result.item.scenario.name
        if self._cases[scenario] <= MANY or self._verbose:
            self._print(result)
            return
        self._waiting.append(result)
        if len(self._waiting) == self._cases[scenario]:
            group, self._waiting = self._waiting, []
            self._sum_up(group)

    def _sum_up(self, group: Sequence[Result]) -> None:
        """Print what came of a scenario of many cases: one line, and below it those that did not hold."""
        self.quiet()
        state = worst(group)
        seconds = sum(result.seconds for result in group)
        line = Text.assemble(
            (f"{_MARKS[state]} {state:<8}", _STYLES[state]),
            f"{group[0].item.scenario.name} [{_flows(group, state)} flows]",
            (f"  {seconds:.2f} s", "dim"),
        )
        self.console.print(line)
        if state == "held":
            return
        for result in told(group)[:_SHOWN]:
            self._print(result)
        failed = sum(result.verdict.state != "held" for result in group)
        if failed > _SHOWN:
            self.console.print(
                Text(
                    f"    and {failed - _SHOWN} more; {min(failed, MOST_TOLD)} are in report.html, all in flows.jsonl"
                )
            )

    def _print(self, result: Result) -> None:
        self.quiet()
        state = result.verdict.state
        line = Text.assemble(
            (f"{_MARKS[state]} {state:<8}", _STYLES[state]),
            result.item.id,
            (f"  {result.seconds:.2f} s", "dim"),
        )
        if result.flaky:
            line.append(f"  flaky: {result.tries} tries, and not all alike", "yellow")
        self.console.print(line)
        if state != "held":
            for text in failure_lines(result):
                self.console.print(Text("    " + text))
        elif self._verbose:
            for finding in result.verdict.findings:
                self.console.print(Text(f"    {finding.at}: {finding.expected}: {finding.seen}", "dim"))
            if self._verbose > 1:
                for text in passport_lines(result):
                    self.console.print(Text("    " + text, "dim"))

    def skipped(self, skipped: Skipped) -> None:
        """Print a case that was not run, and why."""
        self.quiet()
        style = "dim" if skipped.allowed else "yellow"
        self.console.print(
            Text.assemble((f"- {'skipped':<8}", style), skipped.item.id, (f"  {skipped}", "dim"))
        )

    def summary(self, summary: Summary, folder: str) -> None:
        """Print a row for each scenario, then the counts and where the files are."""
        self.quiet()
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("verdict", no_wrap=True)
        table.add_column("flows", justify="right", no_wrap=True)
        table.add_column("scenario", ratio=3, overflow="fold")
        table.add_column("outcome", ratio=2, overflow="fold")
        table.add_column("evidence", ratio=2, overflow="fold")
        for group in _differences_first(summary.results):
            state = worst(group)
            row = (
                _flows(group, state),
                group[0].item.scenario.name,
                _expected(group[0]),
                _evidence(group, state),
            )
            table.add_row(Text(f"{_MARKS[state]} {state}", _STYLES[state]), *map(Text, row))
        for one in _skipped(summary):
            table.add_row(Text("- skipped", "yellow"), *map(Text, one))
        if summary.results or summary.skipped:
            title = f"{summary.lab}: {summary.title}" if summary.title else summary.lab
            self.console.print()
            self.console.print(Text(title, "bold"))
            self.console.print(table)
        self._comparison(summary)
        self._tenants(summary)
        not_allowed = Counter(one.capability for one in summary.skipped if not one.allowed)
        self.console.print()
        self._exercised(summary)
        for capability, number in not_allowed.items():
            self.console.print(
                f"{number} skipped for want of {capability}; --allow-missing {capability} accepts that"
            )
        self.console.print(
            f"{summary.words or 'nothing selected'} in {summary.seconds:.2f} s; files in {folder}"
        )
        if summary.failed:
            self.console.print(f"to look into it elsewhere: {folder}/{BUNDLE}, which has no private keys")

    def _exercised(self, summary: Summary) -> None:
        """Print how much of the lab the flows met, and the first parts that none did."""
        met = of_run(summary.results)
        if met is None:
            return
        left = ", ".join(map(str, met.missing[:_MOST_PARTS]))
        more = f" and {len(met.missing) - _MOST_PARTS} more" if len(met.missing) > _MOST_PARTS else ""
        self.console.print(Text(f"{met}; not: {left}{more}" if left else str(met), "dim"))

    def _comparison(self, summary: Summary) -> None:
        """Print what came of each scenario that has a place in the table."""
        found = compare(summary.results)
        if found is None:
            return
        table = Table(box=HORIZONTALS, show_lines=True, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in ("", *found.columns):
            table.add_column(heading, overflow="fold")
        for row in found.rows:
            cells = found.line(row)
            styles = ["bold" if cell.startswith("gets through") else "" for cell in cells]
            table.add_row(row, *map(Text, cells, styles))
        self._print_wide(table)

    def _tenants(self, summary: Summary) -> None:
        """Print who was who, where there are several tenants."""
        found = correlate(summary.results)
        if found is not None:
            table = Table(box=HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
            for heading in found.heads:
                table.add_column(heading, overflow="fold")
            for row in found.rows:
                table.add_row(*map(Text, row))
            self._print_wide(table)

    def _print_wide(self, table: Table) -> None:
        self.console.print()
        wide = Console(file=self.console.file, width=_PIPE_WIDTH)
        (self.console if self.console.is_terminal else wide).print(table)


def _differences_first(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results of each scenario, broken before unknown before held."""
    return sorted(by_scenario(results), key=lambda group: ("broken", "unknown", "held").index(worst(group)))


def _skipped(summary: Summary) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each scenario that was skipped: its cases, its name, what was expected, and what is missing."""
    groups: dict[tuple[str, str, str], int] = {}
    for one in summary.skipped:
        row = (one.item.scenario.name, outcome_of(one.item.scenario.expect)[0], f"no {one.capability}")
        groups[row] = groups.get(row, 0) + 1
    for (name, expected, evidence), cases in groups.items():
        yield str(cases), name, expected, evidence


def _flows(group: Sequence[Result], state: State) -> str:
    """Say how many flows a scenario had, and where not all came to the same, how many to the state that is shown."""
    flows = sum(sum(result.load.values()) if result.load else 1 for result in group)
    alike = sum(result.verdict.state == state for result in group)
    return str(flows) if alike == len(group) else f"{alike} of {flows}"


def _expected(result: Result) -> str:
    expect = result.item.scenario.expect
    if expect.allowed is not None:
        return "allowed"
    denied, word = (expect.rejected, "rejected") if expect.rejected else (expect.dropped, "dropped")
    return f"{word} at {denied.at}" if denied else ""


def _evidence(group: Sequence[Result], state: str) -> str:
    """Say the most telling thing: where it differed, else the sources that were seen, else who decided."""
    if state != "held":
        first = next(result for result in group if result.verdict.state == state).verdict.reasons[0]
        return f"{first.at}: {first.seen.splitlines()[0] if first.seen else 'nothing'}"[:80]
    found = [finding for result in group for finding in result.verdict.findings]
    split = [
        f"{finding.at} {finding.seen.partition(',')[0]}"
        for finding in found
        if finding.check == "split" and "% of" in finding.expected
    ]
    if split:
        return "; ".join(split)
    sources = sorted(
        {finding.expected.partition("(")[2].rstrip(")") for finding in found if finding.check == "source"}
    )
    if sources:
        hop = next(finding.at for finding in found if finding.check == "source")
        if len(sources) > _ADDRESSES:
            return f"{hop} saw {len(sources)} addresses, {sources[0]} among them"
        return f"{hop} saw {', '.join(sources)}"
    outcome = group[0].item.scenario.expect
    denied = outcome.rejected or outcome.dropped
    if denied is not None:
        return f"by {denied.by}" if denied.by else "recorded there"
    return " > ".join(finding.at for finding in found if finding.check == "path")
