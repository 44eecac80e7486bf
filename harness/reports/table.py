"""table.md: what came of the scenarios that have a place in the table, one row a line; no file when none has."""

from __future__ import annotations

from pathlib import Path

from harness.comparison import compare
from harness.markup import markdown_row
from harness.report import Summary
from harness.running import RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:  # noqa: ARG001 - every report's form
    """Write the file, in Markdown."""
    found = compare(summary.results)
    if found is None:
        return
    lines = [("", *found.columns), ("---",) * (len(found.columns) + 1)]
    lines += [(row, *found.line(row)) for row in found.rows]
    (folder / "table.md").write_text("".join(map(markdown_row, lines)), encoding="utf-8")
