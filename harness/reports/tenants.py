"""tenants.md: who was who, from the workload to the server's line; no file where the lab has not several tenants."""

from __future__ import annotations

from pathlib import Path

from harness.correlation import correlate
from harness.markup import markdown_row
from harness.report import Summary
from harness.running import RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:  # noqa: ARG001 - every report's form
    """Write the file, in Markdown."""
    found = correlate(summary.results)
    if found is not None:
        lines = [found.heads, ("---",) * len(found.heads), *found.rows]
        (folder / "tenants.md").write_text("".join(map(markdown_row, lines)), encoding="utf-8")
