"""Two runs compared by what they wrote down: differences first, and only what is one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from judged_flows import BLUE, RED, told, without
from test_report import result_of, summary_of

from harness.cli import main
from harness.report import write

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result as Done

    from harness.run import Result


def run_of(folder: Path, *results: Result) -> Path:
    """Write a run of these results and return its folder."""
    return write(summary_of(*results), None, folder)


def changed(run: Path, flow: str, **fields: Any) -> None:
    """Change what a run says of a flow."""
    file = run / "flows.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    (meant,) = (record for record in records if record.get("id") == flow)
    meant.update(fields)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def diff(*words: str | Path) -> Done:
    """Compare runs, as a user does."""
    return CliRunner().invoke(main, ["diff", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return two runs of the same two flows."""
    flows = result_of(told(BLUE)), result_of(told(RED))
    return run_of(tmp_path, *flows), run_of(tmp_path, *flows)


def test_what_decided_and_what_was_translated_is_written_down(pair: tuple[Path, Path]) -> None:
    """A denial has its hop and rule, an allowed flow the rules that let it through and its SNAT address."""
    lines = (pair[0] / "flows.jsonl").read_text(encoding="utf-8").splitlines()
    _, blue, red = map(json.loads, lines)
    assert [one["at"] for one in blue["decided"]] == ["bigip"]
    assert blue["decided"][0]["decision"] == "REJECTED"
    assert {one["at"] for one in red["decided"]} == {"bigip", "firewall"}
    assert "10.4.0.211" in [one["to"] for one in red["translated"] if one["at"] == "bigip"]


def test_the_same_twice_is_no_difference(pair: tuple[Path, Path]) -> None:
    """Exit code 0, and one line that says how many flows are the same."""
    done = diff(*pair)
    assert (done.exit_code, done.output) == (0, "tenants: 2 the same\n")


def test_a_flow_that_broke_comes_first(tmp_path: Path) -> None:
    """Its verdict with the first reason, who decided and the translation, each as it was and as it is; exit code 1."""
    blue, red = result_of(told(BLUE)), result_of(told(RED))
    before = run_of(tmp_path, blue, red)
    after = run_of(tmp_path, blue, result_of(without(told(RED), at="bigip")))
    done = diff(before, after)
    first, verdict, now, *rest = done.output.splitlines()
    assert done.exit_code == 1
    assert first == f"≠ {RED}"
    assert verdict.split() == ["verdict", "was", "held"]
    assert now.split()[:4] == ["now", "broken:", "bigip:", "expected"]
    assert any("decided" in line and "bigip: PERMITTED by" in line for line in rest)
    assert rest[-1] == "tenants: 1 differ, 1 the same"


def test_another_translation_alone_is_a_difference(pair: tuple[Path, Path]) -> None:
    """Of flows that hold alike, another SNAT address is told, with both."""
    changed(pair[1], RED, translated=[{"at": "bigip", "from": "10.53.0.2", "to": "10.4.0.212"}])
    done = diff(*pair)
    assert done.exit_code == 1
    assert "10.4.0.211" in done.output
    assert "now bigip: 10.53.0.2 to 10.4.0.212" in done.output
    assert "verdict" not in done.output


def test_a_flow_of_one_run_only_is_told(tmp_path: Path) -> None:
    """Whichever run it is in."""
    blue, red = result_of(told(BLUE)), result_of(told(RED))
    one, other = run_of(tmp_path, blue), run_of(tmp_path, red)
    done = diff(one, other)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        f"- {BLUE}: only in {one}",
        f"+ {RED}: only in {other}",
        "tenants: 1 only in the first, 1 only in the second",
    ]


def test_time_counts_only_where_it_is_asked_for(pair: tuple[Path, Path]) -> None:
    """Twice the time is told and is the same; with --time it is a difference; a few ms never are."""
    changed(pair[0], RED, started=0, ended=200_000_000)
    changed(pair[1], RED, started=0, ended=900_000_000)
    changed(pair[0], BLUE, started=0, ended=1_000_000)
    changed(pair[1], BLUE, started=0, ended=50_000_000)
    done = diff(*pair)
    assert done.exit_code == 0
    assert done.output.splitlines()[0] == f"~ {RED}: slower, 200 ms, now 900 ms"
    assert BLUE not in done.output
    assert diff(*pair, "--time", "3").exit_code == 1
    assert diff(*pair, "--time", "5").exit_code == 0


def test_it_is_data_too(pair: tuple[Path, Path]) -> None:
    """--json has the same differences as one object."""
    changed(pair[1], RED, decided=[])
    done = diff(*pair, "--json")
    found = json.loads(done.output)
    assert (done.exit_code, found["differs"]) == (1, True)
    (change,) = found["changed"][RED]
    assert (change["what"], change["after"]) == ("decided", "nobody")


def test_other_versions_are_told(tmp_path: Path) -> None:
    """What the runs themselves differ in is told and is no difference of a flow."""
    summary = summary_of(result_of(told(BLUE)))
    one = write(summary, None, tmp_path)
    other = write(replace(summary, versions={"kernel": "7"}, driver="k3d"), None, tmp_path)
    done = diff(one, other)
    assert done.exit_code == 0
    assert "  driver: was fake, now k3d" in done.output
    assert "  kernel: was 6, now 7" in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file or directory; name a run's folder, as out/LAB/latest"),
        ("", "flows.jsonl:1: it does not begin with a run"),
        ("{}\n", "flows.jsonl:1: it does not begin with a run"),
        ("[]\n", "flows.jsonl:1: it is not a JSON object"),
        ("x\n", "flows.jsonl:1: it is not JSON"),
        ('{"lab": "tenants"}\n{"id": "a"}\n', "flows.jsonl:2: no 'verdict'; was it written by an earlier version?"),
        ('{"lab": "other"}\n', "is of lab 'tenants'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_unusable(
    pair: tuple[Path, Path], tmp_path: Path, text: str | None, says: str
) -> None:
    """One sentence with file and line, and exit code 2."""
    folder = tmp_path / "strange"
    folder.mkdir()
    if text is not None:
        (folder / "flows.jsonl").write_text(text, encoding="utf-8")
    done = diff(pair[0], folder)
    assert done.exit_code == 2
    assert says in done.output


@pytest.mark.parametrize(
    "fields", [{"verdict": "good"}, {"findings": 3}, {"decided": [{}]}, {"started": "x"}]
)
def test_a_damaged_flow_is_unusable(pair: tuple[Path, Path], fields: dict[str, Any]) -> None:
    """Its line is told; nothing is compared with half of a run."""
    changed(pair[1], RED, **fields)
    done = diff(*pair)
    assert done.exit_code == 2
    assert "flows.jsonl:3: this is no flow of a run" in done.output
