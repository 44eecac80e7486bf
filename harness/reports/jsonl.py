"""flows.jsonl: one JSON object a line: the run first, then each flow with its findings and its passport."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness import __version__
from harness.capabilities import Skipped
from harness.report import Summary
from harness.run import as_record
from harness.running import RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:  # noqa: ARG001 - every report's form
    """Write the file."""
    head = {
        "egresslab": __version__,
        "lab": summary.lab,
        "driver": summary.driver,
        "started": summary.started.isoformat(),
        "seconds": round(summary.seconds, 3),
        "phases": {name: round(seconds, 4) for name, seconds in summary.phases},
        "versions": summary.versions,
        "counts": summary.counts | ({"skipped": len(summary.skipped)} if summary.skipped else {}),
    }
    with (folder / "flows.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
        for result in summary.results:
            file.write(json.dumps(as_record(result)) + "\n")
        for one in summary.skipped:
            file.write(json.dumps(_as_record(one)) + "\n")


def _as_record(one: Skipped) -> Mapping[str, object]:
    item = one.item
    return {
        "id": item.id,
        "scenario": item.scenario.name,
        "file": item.path,
        "line": item.line,
        "from": item.source,
        "to": item.to,
        "verdict": "skipped",
        "needs": one.capability,
        "reason": one.reason,
        "allowed": one.allowed,
    }
