"""junit.xml, in the form that CI services read: broken is a failure, unknown an error."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from harness.explain import passport_lines
from harness.report import Summary
from harness.running import RunningLab
from harness.scenario import Item

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write (section 2.2)."""


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:  # noqa: ARG001 - every report's form
    """Write the file."""
    counts = summary.counts
    suite = ET.Element(
        "testsuite",
        name=f"egresslab {summary.lab}",
        tests=str(len(summary.results) + len(summary.skipped)),
        failures=str(counts["broken"]),
        errors=str(counts["unknown"]),
        skipped=str(len(summary.skipped)),
        time=f"{summary.seconds:.3f}",
        timestamp=summary.started.isoformat(timespec="seconds"),
    )
    for result in summary.results:
        case = _case(suite, summary, result.item, result.seconds)
        if result.verdict.state != "held":
            tag = "failure" if result.verdict.state == "broken" else "error"
            reasons = "\n".join(str(finding) for finding in result.verdict.reasons)
            node = ET.SubElement(case, tag, message=_clean(reasons), type=result.verdict.state)
            node.text = _clean(reasons + "\n\n" + "\n".join(passport_lines(result)))
    for one in summary.skipped:
        ET.SubElement(_case(suite, summary, one.item, 0.0), "skipped", message=_clean(str(one)))
    tree = ET.ElementTree(ET.Element("testsuites"))
    root = tree.getroot()
    if root is not None:
        root.append(suite)
    tree.write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)


def _case(suite: ET.Element, summary: Summary, item: Item, seconds: float) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        classname=f"{summary.lab}.{Path(item.path).stem}",
        name=_clean(item.id),
        file=item.path,
        line=str(item.line),
        time=f"{seconds:.3f}",
    )


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
