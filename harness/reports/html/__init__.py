"""report.html: the whole run as one page that needs no network, no script and no other file."""

from __future__ import annotations

from pathlib import Path

from harness.report import BUNDLE, Summary
from harness.reports.html.page import page
from harness.running import RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:
    """Write the file; it links to the run's other files, and to the bundle that comes after it where one does."""
    beside = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".html")
    if summary.failed:
        beside.append(BUNDLE)
    (folder / "report.html").write_text(page(summary, lab, beside), encoding="utf-8")
