"""Who was who: from the workload to the last hop's own line, in what the hops between recorded."""

from __future__ import annotations

import datetime as dt
import io
from dataclasses import replace
from typing import TYPE_CHECKING

from judged_flows import BLUE, RED, ROUND, joined, lab, told
from rich.console import Console

from harness.correlation import HEADS, correlate
from harness.report import Summary
from harness.reports import tenants
from harness.reports.terminal import Terminal
from harness.run import Result
from harness.verdict import judge

if TYPE_CHECKING:
    from pathlib import Path

    from harness.evidence import Evidence

STARTED = dt.datetime(2026, 11, 21, 15, 7, 47, tzinfo=dt.UTC)


def of_two_tenants(evidence: Evidence) -> Result:
    """Return an attempt's result in the small lab, whose second tenant has a pool as well."""
    found = evidence.plan.lab
    namespaces = dict(found.namespaces)
    namespaces["blue"] = namespaces["blue"].model_copy(update={"snat": "blue"})
    plan = replace(evidence.plan, lab=found.model_copy(update={"namespaces": namespaces}))
    changed = replace(evidence, plan=plan)
    passport = joined(changed)
    return Result(evidence.attempt.item, judge(changed, passport), changed, passport, 0.25)


def summary_of(*results: Result) -> Summary:
    """Return a run of these results."""
    return Summary("tenants", "", "fake", results, (), {}, STARTED, 1.5)


def test_a_row_leads_from_the_workload_to_the_servers_line() -> None:
    """With the identity, the translation and whose it is, each rule that decided, and what the last hop wrote."""
    found = correlate([of_two_tenants(told(RED))])
    assert found is not None
    assert found.heads == HEADS
    (row,) = found.rows
    cells = dict(zip(HEADS, row, strict=True))
    plan, bindings = lab()
    assert cells["workload"] == "red/client"
    assert cells["its address"] == str(bindings.address(plan.node("red/client")))
    assert cells["identity"].startswith("spiffe://cluster.local/ns/red/")
    assert cells["translated"] == "10.4.0.211 at bigip"
    assert cells["tenant outside"] == "red"
    assert cells["decided"] == "bigip red-only, firewall proxy-out"
    assert cells["the last hop's own line"].startswith("site.example: request ")


def test_a_denied_flow_ends_where_it_was_last_seen() -> None:
    """Its row names who said no, and that no server has a line of it."""
    found = correlate([of_two_tenants(told(ROUND))])
    assert found is not None
    assert "firewall no: default" in found.rows[0]
    assert found.rows[0][-1] == "none; last seen at firewall"
    denied = correlate([of_two_tenants(told(BLUE))])
    assert denied is not None
    assert "bigip no: red-only" in denied.rows[0]
    assert "-" in denied.rows[0]


def test_flows_of_one_way_are_one_row() -> None:
    """How many there were stands behind the last cell."""
    found = correlate([of_two_tenants(told(ROUND)), of_two_tenants(told(ROUND))])
    assert found is not None
    assert [row[-1] for row in found.rows] == ["none; last seen at firewall (2 times)"]


def test_nobody_to_be_told_from_another_no_table() -> None:
    """With one tenant that has a pool, and for what was not tried, there is none."""
    result = of_two_tenants(told(RED))
    alone = told(RED)
    passport = joined(alone)
    assert correlate([Result(result.item, result.verdict, alone, passport, 0.25)]) is None
    assert correlate([replace(result, evidence=None, passport=None)]) is None


def test_without_identities_their_column_is_left_out() -> None:
    """Where no hop saw a certificate, nobody looks for one in vain."""
    found = correlate([of_two_tenants(told(ROUND))])
    assert found is not None
    assert found.heads == tuple(head for head in HEADS if head != "identity")
    assert {len(row) for row in found.rows} == {len(found.heads)}


def test_the_table_is_a_file_and_on_the_terminal(tmp_path: Path) -> None:
    """tenants.md has a line for each row; a run without several tenants has none, and no file."""
    tenants.write(summary_of(), None, tmp_path)
    assert not list(tmp_path.iterdir())
    summary = summary_of(of_two_tenants(told(RED)))
    tenants.write(summary, None, tmp_path)
    lines = (tmp_path / "tenants.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| red/client | ")
    printed = io.StringIO()
    Terminal(console=Console(file=printed, width=80)).summary(summary, "out")
    assert "tenant outside" in printed.getvalue()
