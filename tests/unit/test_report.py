"""A run's files: a folder of its own, `latest` pointing to it, well formed whatever a client printed."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from judged_flows import BLUE, RED, ROUND, joined, lab, printing, told, without
from recorded_flows import BEGUN, Story, allowed, block_of, tcp_frame
from rich.console import Console
from wireshark import fields

from harness import lookup
from harness.drivers.fake import FakeLab
from harness.evidence import Evidence, Finding
from harness.programs.fivetuple import TCP, FiveTuple
from harness.report import FILES, Summary, write
from harness.reports.terminal import Terminal
from harness.run import Result
from harness.verdict import Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path

STARTED = dt.datetime(2026, 11, 21, 15, 7, 47, tzinfo=dt.UTC)
NASTY = "\x00\x07\x1b[31mred\x1b[0m \ud800 ]]> <&\"'> \x85 \ufffe end"


def result_of(evidence: Evidence) -> Result:
    """Return an attempt's result."""
    passport = joined(evidence)
    return Result(evidence.attempt.item, judge(evidence, passport), evidence, passport, 0.25)


def nasty() -> Result:
    """Return a broken result whose client printed what no file format likes."""
    return result_of(told(RED, lambda one: printing(one, NASTY, code=1)))


def summary_of(*results: Result) -> Summary:
    """Return a run of these results."""
    return Summary(
        "tenants", "Two tenants", "fake", results, (("pretending", 0.5),), {"kernel": "6"}, STARTED, 1.5
    )


def test_a_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Files lie in <out>/<lab>/<when it started>, and `latest` leads there."""
    folder = write(summary_of(result_of(told(BLUE))), None, tmp_path / "out")
    assert folder == tmp_path / "out" / "tenants" / "2026-11-21T15-07-47"
    assert (tmp_path / "out" / "tenants" / "latest").resolve() == folder.resolve()
    assert {path.name for path in folder.iterdir()} == {
        "flows.jsonl",
        "junit.xml",
        "results.tap",
        "report.html",
    }


def test_two_runs_in_one_second_do_not_mix(tmp_path: Path) -> None:
    """The second gets another folder, nothing of the first is overwritten, and `latest` is the second."""
    first = write(summary_of(result_of(told(BLUE))), None, tmp_path)
    before = (first / "junit.xml").read_bytes()
    second = write(summary_of(), None, tmp_path)
    assert second.name == "2026-11-21T15-07-47.1"
    assert (first / "junit.xml").read_bytes() == before
    assert (tmp_path / "tenants" / "latest").resolve() == second.resolve()


def test_latest_is_moved_over_a_dead_link(tmp_path: Path) -> None:
    """A `latest` whose run was deleted is replaced like any other."""
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "latest").symlink_to("gone")
    folder = write(summary_of(), None, tmp_path)
    assert (tmp_path / "tenants" / "latest").resolve() == folder.resolve()


def test_junit_counts_and_places(tmp_path: Path) -> None:
    """Broken is a failure, unknown an error, each with its reasons and passport, and the place of the scenario."""
    held, broken = result_of(told(BLUE)), result_of(without(told(RED), at="firewall"))
    unknown = result_of(without(told(ROUND), witness="nflog"))
    folder = write(summary_of(held, broken, unknown), None, tmp_path)
    (suite,) = ET.parse(folder / "junit.xml").getroot()  # noqa: S314 - our own file
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    cases = list(suite)
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["error"]]
    assert cases[1].get("name") == RED
    assert cases[1].get("line") == "3"
    assert cases[1].get("classname") == "tenants.scenarios"
    failure = cases[1][0]
    assert failure.get("message", "").startswith("at firewall: expected the flow passes here")
    assert "passport:" in (failure.text or "")


def test_junit_is_xml_whatever_was_printed(tmp_path: Path) -> None:
    """Control characters, lone surrogates and markup in a client's output leave a file that parses."""
    folder = write(summary_of(nasty()), None, tmp_path)
    root = ET.parse(folder / "junit.xml").getroot()  # noqa: S314 - our own file
    text = root[0][0][0].get("message", "")
    assert "[31mred" in text
    assert "end" in text


def test_tap_counts_unknown_as_not_ok(tmp_path: Path) -> None:
    """A test point for each result in order; what is broken or unknown is not ok, and its YAML block says which."""
    held, broken = result_of(told(BLUE)), result_of(without(told(RED), at="firewall"))
    unknown = result_of(without(told(ROUND), witness="nflog"))
    folder = write(summary_of(held, broken, unknown), None, tmp_path)
    version, plan, *lines = (folder / "results.tap").read_text(encoding="utf-8").splitlines()
    assert (version, plan) == ("TAP version 14", "1..3")
    assert [line for line in lines if not line.startswith(" ")] == [
        f"ok 1 - {BLUE}",
        f"not ok 2 - {RED}",
        f"not ok 3 - {ROUND}",
    ]
    assert [block["verdict"] for block in yaml_blocks(lines)] == ["broken", "unknown"]
    assert yaml_blocks(lines)[0]["reasons"][0]["at"] == "firewall"
    assert any("bigip" in line for line in yaml_blocks(lines)[0]["passport"])


def test_tap_stays_tap_whatever_was_printed(tmp_path: Path) -> None:
    """What a client printed stays within its YAML block; a scenario's name makes neither a directive nor a line."""
    result = nasty()
    item = result.item.model_copy(update={"id": "one # SKIP \\ two"})
    folder = write(summary_of(replace(result, item=item)), None, tmp_path)
    lines = (folder / "results.tap").read_text(encoding="utf-8").splitlines()
    assert lines[2] == r"not ok 1 - one \# SKIP \\ two"
    assert all(line.startswith("  ") for line in lines[3:])
    assert "end" in yaml_blocks(lines)[0]["reasons"][0]["seen"]


def yaml_blocks(lines: list[str]) -> list[Any]:
    """Return the YAML blocks of TAP lines, each of which begins and ends with its mark."""
    begins = [number for number, line in enumerate(lines) if line == "  ---"]
    ends = [number for number, line in enumerate(lines) if line == "  ..."]
    return [yaml.safe_load("\n".join(lines[a + 1 : b])) for a, b in zip(begins, ends, strict=True)]


def test_jsonl_is_one_object_a_line(tmp_path: Path) -> None:
    """The run first, then each flow with verdict, findings, client and passport; nasty output and all."""
    folder = write(summary_of(result_of(told(BLUE)), nasty()), None, tmp_path)
    head, blue, red = map(json.loads, (folder / "flows.jsonl").read_text(encoding="utf-8").splitlines())
    assert (head["lab"], head["driver"], head["seconds"]) == ("tenants", "fake", 1.5)
    assert head["counts"] == {"held": 1, "broken": 1, "unknown": 0}
    assert head["versions"] == {"kernel": "6"}
    assert (blue["verdict"], blue["from"], blue["client"]["exit"]) == ("held", "blue/client", 56)
    assert {sighting["at"] for sighting in blue["passport"]} >= {"bigip", "blue/client sidecar"}
    assert red["client"]["printed"] == NASTY
    assert all(set(finding) == {"check", "state", "at", "expected", "seen"} for finding in red["findings"])


def test_a_result_without_an_attempt_is_written_too(tmp_path: Path) -> None:
    """What was not tried, since its control failed, has its reasons and no client."""
    untried = replace(result_of(told(BLUE)), evidence=None, passport=None)
    folder = write(summary_of(untried), None, tmp_path)
    record = json.loads((folder / "flows.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert (record["client"], record["passport"], record["started"]) == (None, [], None)


def test_a_capture_has_every_frame_of_the_run(tmp_path: Path) -> None:
    """What all taps saw is one pcapng file: a section header first, and an interface for each tap."""
    plan, bindings = lab()
    running = FakeLab(plan, "paper", ("", ""), [allowed(Story(plan, bindings, BEGUN))])
    running.run("red/client", ["curl"], seconds=1)
    folder = write(summary_of(result_of(told(RED))), running, tmp_path)
    content = (folder / "capture.pcapng").read_bytes()
    assert content.startswith(b"\x0a\x0d\x0d\x0a")
    for tap in ("bigip.nodes", "red/client.eth0"):
        assert tap.encode() in content
    assert f"{RED}: held".encode() in content


def test_a_tunnel_without_ethernet_is_read_as_ip(tmp_path: Path) -> None:
    """What a device of IP-in-IP shows begins with IP; its interface in the file says so, and others stay Ethernet."""
    plan, bindings = lab()
    story = Story(plan, bindings, BEGUN)
    recording = allowed(story)
    flow = FiveTuple(TCP, "10.9.9.9", 5, "10.9.9.8", 6)
    (ifindex,) = [index for index, name in story.interfaces()["server-0"].items() if name == "server-0.cali"]
    story.frames["server-0"] = [block_of([(BEGUN, ifindex, True, tcp_frame(flow, "S")[14:])], hardware=768)]
    running = FakeLab(plan, "paper", ("", ""), [replace(recording, raw=story.raw())])
    running.run("red/client", ["curl"], seconds=1)
    folder = write(summary_of(result_of(told(RED))), running, tmp_path)
    found = fields(
        folder / "capture.pcapng", "ip.src == 10.9.9.9", ("frame.interface_name", "frame.protocols")
    )
    assert found == [("server-0.cali", "raw:ip:tcp")]
    assert fields(folder / "capture.pcapng", "eth && tcp", ("ip.src",))


def test_a_load_counts_each_of_its_flows() -> None:
    """The row of a load has the number of its flows, and of a split how many each pod served."""
    served = result_of(told(BLUE))
    parts = [
        Finding("split", "held", pod, "50 % of 40 flows", seen)
        for pod, seen in (("red/shop-v1", "19 flows, p-value 0.9"), ("red/shop-v2", "21 flows, p-value 0.9"))
    ]
    verdict = Verdict("held", (*served.verdict.findings, *parts))
    stream = io.StringIO()
    with Terminal(console=Console(file=stream, width=120)) as terminal:
        terminal.summary(summary_of(replace(served, verdict=verdict, load={"held": 40})), "out")
    (row,) = [line for line in stream.getvalue().splitlines() if BLUE in line]
    assert row.split()[:3] == ["✓", "held", "40"]
    assert "red/shop-v1 19 flows;" in stream.getvalue()


@pytest.mark.parametrize(
    ("states", "code"),
    [((), 5), (("held",), 0), (("held", "unknown"), 3), (("unknown", "broken"), 1), (("held", "broken"), 1)],
)
def test_exit_codes(states: tuple[str, ...], code: int) -> None:
    """0 all held, 1 broken, 3 unknown, 5 nothing selected; broken outweighs unknown."""
    results = {
        "held": result_of(told(BLUE)),
        "unknown": result_of(without(told(ROUND), witness="nflog")),
        "broken": result_of(without(told(RED), at="firewall")),
    }
    assert summary_of(*(results[state] for state in states)).exit_code == code


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_plug(name: str) -> None:
    """Each form of output is a plug that writes into the run's folder."""
    assert list(lookup.find("reports", name).write.__annotations__) == ["summary", "lab", "folder", "return"]
