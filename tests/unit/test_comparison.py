"""The table of a run: its cells say what the evidence said, whatever the scenarios expected."""

from __future__ import annotations

import datetime as dt
import io
from dataclasses import replace
from typing import TYPE_CHECKING

from judged_flows import BLUE, RED, ROUND, joined, printing, told, without
from recorded_flows import BEGUN
from rich.console import Console

from harness.comparison import NOT_RUN, cell_of, compare
from harness.evidence import Finding, Sighting
from harness.programs.fivetuple import TCP, FiveTuple
from harness.report import Summary
from harness.reports import table
from harness.reports.terminal import Terminal
from harness.run import Result
from harness.scenario_model import Table
from harness.verdict import conclude, judge

if TYPE_CHECKING:
    from pathlib import Path

    from harness.evidence import Evidence

STARTED = dt.datetime(2026, 11, 21, 15, 7, 47, tzinfo=dt.UTC)


def result_of(evidence: Evidence, row: str | None = None, column: str = "proxy") -> Result:
    """Return an attempt's result, its scenario in a cell of the table."""
    passport = joined(evidence)
    item = evidence.attempt.item
    if row is not None:
        place = Table(row=row, column=column)
        item = item.model_copy(update={"scenario": item.scenario.model_copy(update={"table": place})})
    return Result(item, judge(evidence, passport), evidence, passport, 0.25)


def summary_of(*results: Result) -> Summary:
    """Return a run of these results."""
    return Summary("tenants", "", "fake", results, (), {}, STARTED, 1.5)


def test_a_denied_flow_says_which_hop_stopped_it_and_by_what_rule() -> None:
    """The hop and the rule are those of the recorded decision: a proxy's log, a firewall's."""
    assert cell_of(result_of(told(BLUE))) == "stopped at bigip by 'red-only'"
    assert cell_of(result_of(told(ROUND))) == "stopped at firewall by 'default'"


def test_a_denial_says_who_saw_the_flow_all_the_same() -> None:
    """A proxy that rejects and dials stopped nothing: the hops beyond it that saw a connection are in the cell."""
    result = result_of(told(BLUE))
    assert result.passport is not None
    flow = FiveTuple(TCP, "10.4.0.211", 50000, "10.5.0.3", 8888)
    strays = tuple(
        Sighting(at, "tap", "opening", BEGUN, flow) for at in ("bigip", "firewall", "firewall", "tinyproxy")
    )
    dialled = replace(result, passport=replace(result.passport, strays=strays))
    assert cell_of(dialled) == "stopped at bigip by 'red-only', yet seen at firewall, tinyproxy"
    seen = (*result.passport.sightings, strays[1])
    logged = replace(result, passport=replace(result.passport, sightings=seen))
    assert cell_of(logged) == "stopped at bigip by 'red-only', yet seen at firewall"


def test_a_served_flow_says_as_whom_the_last_hop_saw_it() -> None:
    """The address in the server's own log is given the name of the node that has it."""
    assert cell_of(result_of(told(RED))) == "gets through as tinyproxy"


def test_what_the_scenario_expects_has_no_part_in_a_cell() -> None:
    """Flows judged by each other's scenarios come to the same words, and say that the scenario is broken."""
    served, denied = told(RED), told(BLUE)
    swapped = replace(served, attempt=replace(served.attempt, item=denied.attempt.item))
    assert cell_of(result_of(swapped)) == "gets through as tinyproxy (its scenario is broken)"
    swapped = replace(denied, attempt=replace(denied.attempt, item=served.attempt.item))
    assert cell_of(result_of(swapped)) == "stopped at bigip by 'red-only' (its scenario is broken)"


def test_an_exit_status_is_no_answer() -> None:
    """A client that ends well and has printed nothing did not get through, though nobody recorded a denial."""
    silent = told(RED, lambda recording: printing(recording, ""))
    assert cell_of(result_of(silent)).startswith("unknown (neither a denial nor an answer)")


def test_an_answer_counts_only_where_a_servers_log_has_the_flow() -> None:
    """Words that a client printed, of which the last hop's log knows nothing, are no evidence."""
    unlogged = without(told(RED), at="site.example", witness="log")
    assert "gets through" not in cell_of(result_of(unlogged))


def test_a_verdict_that_is_unknown_leaves_its_cell_unknown() -> None:
    """What is missing is told in place of what might have happened."""
    cell = cell_of(result_of(without(told(ROUND), witness="nflog")))
    assert cell.startswith("unknown (firewall: ")


def test_a_flow_that_was_not_tried_is_unknown() -> None:
    """A scenario whose control failed has no evidence, and its cell no guess."""
    failed = Finding(
        "control", "unknown", "blue/client", "the control 'red is let out' held", "broken: at bigip"
    )
    untried = replace(result_of(told(ROUND)), verdict=conclude([failed]), evidence=None, passport=None)
    assert cell_of(untried) == "unknown (blue/client: broken: at bigip)"


def test_denied_and_answered_beyond_is_unknown() -> None:
    """A denial at one hop and an answer from another contradict each other: the cell says both."""
    evidence = told(RED)
    sightings = tuple(
        replace(sighting, event="drop") if sighting.witness == "nflog" else sighting
        for sighting in evidence.recorded.sightings
    )
    both = replace(evidence, recorded=replace(evidence.recorded, sightings=sightings))
    assert cell_of(result_of(both)).startswith("unknown (denied at firewall, and yet answered)")


def test_rows_and_columns_come_in_order_and_cells_may_be_missing() -> None:
    """A cell whose scenario was not run is marked as such; cases of one scenario share its cell."""
    found = compare(
        [
            result_of(told(RED), "owner"),
            result_of(told(BLUE), "stranger"),
            result_of(told(ROUND), "stranger", "firewall"),
            result_of(told(ROUND), "stranger", "firewall"),
            result_of(told(BLUE), "stranger", "firewall"),
            result_of(told(BLUE)),
        ]
    )
    assert found is not None
    assert found.columns == ("proxy", "firewall")
    assert found.line("owner") == ("gets through as tinyproxy", NOT_RUN)
    assert found.line("stranger") == (
        "stopped at bigip by 'red-only'",
        "stopped at firewall by 'default'; stopped at bigip by 'red-only'",
    )


def test_the_table_is_a_file_of_the_run(tmp_path: Path) -> None:
    """table.md has a line for each row, and signs of the table within a cell do not break it."""
    table.write(summary_of(result_of(told(BLUE), "a | b", "the\\proxy")), None, tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() == [
        "|  | the\\\\proxy |",
        "| --- | --- |",
        "| a \\| b | stopped at bigip by 'red-only' |",
    ]


def test_a_run_without_a_table_has_no_file(tmp_path: Path) -> None:
    """Labs whose scenarios name no cell get neither the file nor the print."""
    summary = summary_of(result_of(told(BLUE)))
    assert compare(summary.results) is None
    table.write(summary, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_table_is_printed_after_the_verdicts() -> None:
    """On the terminal, its headings and cells stand between the list of scenarios and the counts."""
    stream = io.StringIO()
    with Terminal(console=Console(file=stream, width=100)) as terminal:
        terminal.summary(summary_of(result_of(told(BLUE), "stranger", "the proxy's way")), "out")
    printed = stream.getvalue()
    places = [
        printed.index(words) for words in ("by red-only", "the proxy's way", "stopped at bigip", "1 held")
    ]
    assert places == sorted(places)
