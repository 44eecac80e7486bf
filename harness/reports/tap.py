"""results.tap: the Test Anything Protocol, version 14 (testanything.org), with a YAML block for what did not hold.

Unknown is `not ok` as well, since a directive (`# SKIP`, `# TODO`) would make a reader count it as passed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from harness.explain import passport_lines
from harness.report import Summary
from harness.run import Result
from harness.running import RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:  # noqa: ARG001 - every report's form
    """Write the file."""
    with (folder / "results.tap").open("w", encoding="utf-8") as file:
        file.write(f"TAP version 14\n1..{len(summary.results) + len(summary.skipped)}\n")
        for number, result in enumerate(summary.results, 1):
            file.writelines(line + "\n" for line in _test_point(number, result))
        for number, one in enumerate(summary.skipped, len(summary.results) + 1):
            # a reader counts a skipped one as passed, which is right only where somebody said that it may be
            word = "ok" if one.allowed else "not ok"
            file.write(f"{word} {number} - {_description(one.item.id)} # SKIP {_description(str(one))}\n")


def _test_point(number: int, result: Result) -> Iterator[str]:
    state = result.verdict.state
    yield f"{'ok' if state == 'held' else 'not ok'} {number} - {_description(result.item.id)}"
    if state == "held":
        return
    yield "  ---"
    yield f"  verdict: {state}"
    yield f"  file: {_scalar(result.item.path)}"
    yield f"  line: {result.item.line}"
    yield "  reasons:"
    for finding in result.verdict.reasons:
        yield f"    - at: {_scalar(finding.at)}"
        yield f"      check: {_scalar(finding.check)}"
        yield f"      expected: {_scalar(finding.expected)}"
        yield f"      seen: {_scalar(finding.seen)}"
    if lines := list(passport_lines(result))[1:]:
        yield "  passport:"
        yield from (f"    - {_scalar(line.strip())}" for line in lines)
    yield "  ..."


def _description(text: str) -> str:
    """Return a text in one line, with the characters escaped that would end it or begin a directive."""
    return re.sub(r"([\\#])", r"\\\1", " ".join(text.split()))


def _scalar(text: str) -> str:
    """Return a text as JSON writes it, which is YAML too (YAML 1.2, section 1.3), whatever is in it."""
    return json.dumps(text)
