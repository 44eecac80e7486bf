"""The reports of a real run: as many flows in each as were judged, and a page that is small enough to send."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from small_lab import SHIPPED, own_name

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

LARGEST = 1_000_000
"""Bytes of the page of the first lab."""


def test_all_reports_tell_of_the_same_flows(tmp_path: Path) -> None:
    """The page and the TAP file have every flow of flows.jsonl with its verdict; what was seen has a ladder."""
    words = ("test", "--lab", SHIPPED, "--engine", "haproxy", "--name", own_name("reports"))
    done = egresslab(*words, "--out", str(tmp_path))
    folder = tmp_path / SHIPPED / "latest"
    _, *flows = map(json.loads, (folder / "flows.jsonl").read_text(encoding="utf-8").splitlines())
    assert len(flows) > 30, done.stderr
    version, plan, *points = (folder / "results.tap").read_text(encoding="utf-8").splitlines()
    assert (version, plan) == ("TAP version 14", f"1..{len(flows)}")
    verdicts = [line.startswith("ok ") for line in points if not line.startswith(" ")]
    assert verdicts == [flow["verdict"] == "held" for flow in flows]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    parts = re.findall(r'<details id="flow-\d+" class="flow (\w+)".*?</h3>', text)
    assert parts == [flow["verdict"] for flow in flows]
    assert text.count('role="img" aria-labelledby="ladder-') == sum(bool(flow["passport"]) for flow in flows)
    for flow in flows:
        assert html.escape(flow["id"]) in text
        assert all(html.escape(sighting["at"]) in text for sighting in flow["passport"])
    assert text.count("--engine=haproxy</code>") == len(flows)
