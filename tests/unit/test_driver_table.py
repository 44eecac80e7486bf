"""Verdicts of several drivers side by side: what differs comes first, and a driver that fails is a column."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.driver_table import Cell, Column, differs, lines, worst

SAME = Cell("held", "gets through as snat/red")


def column(driver: str, **cells: Cell) -> Column:
    """Return a driver's run; cases are named by letters."""
    return Column(driver, cells, 0, folder="out/x")


def test_differences_come_first() -> None:
    """A verdict that differs is told before words that differ, and these before what is the same."""
    one = column("netns", a=SAME, b=Cell("held", "stopped at bigip"), c=Cell("held", "gets through"))
    other = column("k3d", a=SAME, b=Cell("held", "stopped at firewall"), c=Cell("broken", "stopped at bigip"))
    told = list(lines(["a", "b", "c"], [one, other]))
    assert told[:7] == [
        "≠ c",
        "    netns  held: gets through",
        "    k3d    broken: stopped at bigip",
        "≠ b",
        "    netns  held: stopped at bigip",
        "    k3d    held: stopped at firewall",
        "= a",
    ]
    assert told[-1] == "2 of 3 differ"
    assert [case for case in "abc" if differs(case, [one, other])] == ["b", "c"]


def test_what_is_the_same_is_said_once() -> None:
    """Without a difference the last line says so."""
    told = list(lines(["a"], [column("netns", a=SAME), column("k3d", a=SAME)]))
    assert told[:2] == ["= a", "    all    held: gets through as snat/red"]
    assert told[-1] == "all 1 the same"


def test_a_driver_that_did_not_run_is_a_column() -> None:
    """Its cases were not run, which differs from every verdict, and its reason stands below."""
    failed = Column("k3d", {}, 4, "did not run: no Docker Engine answers")
    told = list(lines(["a"], [column("netns", a=SAME), failed]))
    assert "    k3d    not run" in told
    assert "k3d    did not run: no Docker Engine answers" in told


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([0, 3], 3), ([1, 3], 1), ([4, 1], 4), ([2, 4], 2), ([5, 5], 5)]
)
def test_the_worst_run_decides(codes: list[int], code: int) -> None:
    """Exit codes are those of `test`, in its order."""
    assert worst(codes) == code


@pytest.mark.parametrize("drivers", ["netns", "netns,netns", "netns,k4d"])
def test_two_known_drivers_are_wanted(drivers: str) -> None:
    """One driver, the same one twice, or one that there is not, are no comparison: exit code 2 and one sentence."""
    done = CliRunner().invoke(main, ["compare", "bookinfo-egress", "--drivers", drivers])
    assert (done.exit_code, "--drivers" in done.output) == (2, True)


def test_drivers_without_recordings_differ_in_nothing(tmp_path: object) -> None:
    """As JSON each case has a verdict for each driver; a driver that cannot stand the lab up is told of."""
    arguments = [
        "compare",
        "bookinfo-egress",
        "--drivers",
        "fake,k3d",
        "-k",
        "resets nobody at all",
        "--json",
    ]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path)])
    assert (done.exit_code, "nothing selected" in done.output) == (5, True)
    done = CliRunner().invoke(
        main,
        ["compare", "bookinfo-egress", "--drivers", "k3d,fake", "-k", "from its own address", "--json"],
        env={"DOCKER_HOST": "tcp://127.0.0.1:1"},
    )
    told = json.loads(done.stdout)
    assert done.exit_code == 4
    assert "no Docker Engine answers" in told["drivers"]["k3d"]["failed"]
    assert {cell["verdict"] for case in told["cases"] for cell in case["verdicts"].values()} >= {"not run"}
