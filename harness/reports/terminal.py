"""The terminal: progress while it runs, then a table that a human likes to read; plain when not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from harness.explain import failure_lines, passport_lines
from harness.report import Summary
from harness.run import Result

_STYLES = {"held": "green", "broken": "bold red", "unknown": "yellow"}
_MARKS = {"held": "✓", "broken": "✗", "unknown": "?"}


class Terminal:
    """Prints a run as it goes."""

    def __init__(self, *, verbose: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._status: Status | None = None

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

    def up(self, lab: str, phases: tuple[tuple[str, float], ...], seconds: float) -> None:
        """Say that a lab stands, and with -v how long each phase took."""
        self.quiet()
        self.console.print(Text.assemble("lab ", (lab, "bold"), f" is up after {seconds:.2f} s"))
        if self._verbose:
            for name, took in phases:
                self.console.print(f"  {name:<16} {took:6.3f} s")

    def result(self, result: Result) -> None:
        """Print one result, with its passport when it did not hold or -v asks for it."""
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

    def summary(self, summary: Summary, folder: str) -> None:
        """Print the table of all flows and where the files are."""
        self.quiet()
        table = Table(
            title=f"{summary.lab}: {summary.title}", title_justify="left", box=None, padding=(0, 2, 0, 0)
        )
        for heading in ("verdict", "from", "to", "expected", "evidence"):
            table.add_column(heading, overflow="fold")
        for result in summary.results:
            state = result.verdict.state
            table.add_row(Text(state, _STYLES[state]), *map(Text, _row(result)))
        if summary.results:
            self.console.print()
            self.console.print(table)
        counts = ", ".join(f"{number} {state}" for state, number in summary.counts.items() if number)
        self.console.print()
        self.console.print(f"{counts or 'nothing selected'} in {summary.seconds:.2f} s; files in {folder}")


def _row(result: Result) -> tuple[str, str, str, str]:
    scenario = result.item.scenario
    target = result.item.to or scenario.run or ""
    if scenario.run and target.startswith("curl"):
        target = target.split()[-1]
    if result.item.through:
        target += f" through {result.item.through}"
    if scenario.bypass:
        target += " round its sidecar"
    return result.item.source, target, _expected(result), _evidence(result)


def _expected(result: Result) -> str:
    expect = result.item.scenario.expect
    if expect.allowed is not None:
        return "allowed"
    denied, word = (expect.rejected, "rejected") if expect.rejected else (expect.dropped, "dropped")
    by = f" by {denied.by}" if denied and denied.by else ""
    return f"{word} at {denied.at}{by}" if denied else ""


def _evidence(result: Result) -> str:
    """Say the most telling thing: what broke, else the source address or the decision that was seen."""
    if result.verdict.state != "held":
        first = result.verdict.reasons[0]
        return f"{first.at}: {first.seen}".splitlines()[0][:100]
    wanted = ("source", "denied", "path")
    for check in wanted:
        found = [finding for finding in result.verdict.findings if finding.check == check]
        if found and check == "path":
            return " > ".join(finding.at for finding in found)
        if found:
            return f"{found[-1].at}: {found[-1].seen if check == 'denied' else found[-1].expected}"
    return ""
