"""The page of a run: everything of it is there, nothing in it is markup but ours, and it needs nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from judged_flows import BLUE, RED, ROUND, joined, lab, printing, told, without
from recorded_flows import BEGUN, Story, allowed
from test_report import NASTY, nasty, result_of, summary_of

from harness.drivers.fake import FakeLab
from harness.graph import svg
from harness.report import write
from harness.reports.html.again import repeat
from harness.reports.html.ladder import ladder
from harness.reports.html.page import page
from harness.scenario_model import Step, Table

if TYPE_CHECKING:
    from pathlib import Path

    from harness.run import Result

VOID = {"meta", "br"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</pre><script>document.title='taken'</script><img src=x onerror=alert(1)>"


@dataclass
class Reader(HTMLParser):
    """Reads a page: its elements and their attributes, its text; whatever is not closed in order is an error."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element with nothing in it."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Compare with what is open."""
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All text, in one line."""
        return " ".join(" ".join(self.words).split())


def read(text: str) -> Reader:
    """Read a page to its end."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.errors
    assert not reader.open
    return reader


def three() -> tuple[Result, Result, Result]:
    """Return one result of each state."""
    return (
        result_of(told(BLUE)),
        result_of(without(told(RED), at="firewall")),
        result_of(without(told(ROUND), witness="nflog")),
    )


def running() -> FakeLab:
    """Return the small lab, as it stands at the end of a run."""
    plan, bindings = lab()
    return FakeLab(plan, "paper", ("", ""), [allowed(Story(plan, bindings, BEGUN))])


def test_the_page_has_all_of_a_run(tmp_path: Path) -> None:
    """Counts, each flow with its findings and passport, the topology, and links to the files beside it."""
    folder = write(summary_of(*three()), running(), tmp_path)
    reader = read((folder / "report.html").read_text(encoding="utf-8"))
    assert "✓ 1 held ✗ 1 broken ? 1 unknown" in reader.text
    for result in three():
        assert result.item.id in reader.text
        for finding in result.verdict.findings:
            assert " ".join(finding.seen.split()) in reader.text
        assert result.passport is not None
        for sighting in result.passport.sightings:
            assert f"{(sighting.time - BEGUN) / 1e6:.2f}" in reader.text
    links = {attributes["href"] for name, attributes in reader.elements if name == "a"}
    assert {"flows.jsonl", "junit.xml", "results.tap", "capture.pcapng"} <= links
    assert "Topology of tenants" in reader.text


def test_every_link_in_the_page_leads_somewhere() -> None:
    """Each fragment is the id of one element, and no id is given twice."""
    reader = read(page(summary_of(*three()), running()))
    ids = Counter(attributes["id"] for _, attributes in reader.elements if "id" in attributes)
    assert max(ids.values()) == 1
    links = {attributes["href"] or "" for name, attributes in reader.elements if name == "a"}
    assert {link.removeprefix("#") for link in links} <= set(ids)
    named = [attributes.get("aria-labelledby") or "" for _, attributes in reader.elements]
    assert {name for names in named for name in names.split()} <= set(ids)


def test_the_page_needs_nothing_else() -> None:
    """It has no script, loads nothing, and forbids the browser to."""
    text = page(summary_of(*three()), running())
    reader = read(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {name for name, _ in reader.elements}
    assert not any(
        key in ("src", "srcset") or key.startswith("on") for _, found in reader.elements for key in found
    )
    assert not re.search(
        r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", re.sub(r"<body.*", "", text, flags=re.DOTALL)
    )
    policies = [found for name, found in reader.elements if name == "meta" and "http-equiv" in found]
    assert [found["content"] for found in policies] == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_did_not_hold_is_open() -> None:
    """Broken and unknown flows are unfolded, held ones are folded; a sign says what the colour says."""
    reader = read(page(summary_of(*three()), None))
    flows = [found for name, found in reader.elements if name == "details" and "id" in found]
    assert [("open" in found, found["class"]) for found in flows] == [
        (False, "flow held"),
        (True, "flow broken"),
        (True, "flow unknown"),
    ]
    for words in ("✓ held", "✗ broken", "? unknown"):
        assert words in reader.text


def test_the_truth_table_says_verdict_and_expectation() -> None:
    """Each client has a row and each target a column; a cell says both in words, and leads to the flow."""
    text = page(summary_of(*three()), None)
    table = text.partition('<table class="truth">')[2].partition("</table>")[0]
    rows = [read(row).text for row in re.findall("<tr>.*?</tr>", table, re.DOTALL)[1:]]
    assert [row.split()[0] for row in rows] == ["blue/client", "red/client"]
    assert "✓ held rejected at bigip" in rows[0]
    assert "? unknown dropped at firewall" in rows[0]
    assert "✗ broken allowed" in rows[1]
    assert 'href="#flow-2"' in table
    assert 'scope="row"' in table
    assert 'scope="col"' in table


def test_the_truth_table_tells_steps_apart() -> None:
    """A flow that was tried on a changed lab says so, since its cell may hold others that were not."""
    result = result_of(told(BLUE))
    scenario = result.item.scenario.model_copy(update={"given": (Step(delete="red/client"),)})
    changed = replace(result, item=result.item.model_copy(update={"scenario": scenario}))
    text = read(page(summary_of(result, changed), None)).text
    assert text.count("rejected at bigip after steps") == 1
    assert "given delete red/client" in text


def test_a_hostile_client_writes_text_only() -> None:
    """Markup in what a client printed comes back as the text that it was."""
    result = result_of(told(RED, lambda one: printing(one, HOSTILE, code=1)))
    reader = read(page(summary_of(result), None))
    assert HOSTILE in reader.text
    assert not {"script", "img"} & {name for name, _ in reader.elements}


def test_control_characters_leave_a_page_that_can_be_read(tmp_path: Path) -> None:
    """What no file format likes is written as the replacement character."""
    folder = write(summary_of(nasty()), None, tmp_path)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "\x1b" in NASTY
    assert not re.search("[\x00-\x08\x0e-\x1f]", text)
    assert "[31mred" in read(text).text


def test_a_hostile_log_line_is_text_too() -> None:
    """So is what a program of the lab logged, in the ladder and in the passport."""
    result = result_of(told(BLUE))
    assert result.passport is not None
    first, *others = result.passport.sightings
    bad = replace(first, facts={**first.facts, "rule": HOSTILE, "tap": HOSTILE})
    passport = replace(result.passport, sightings=(bad, *others))
    reader = read(page(summary_of(replace(result, passport=passport)), None))
    assert reader.text.count(HOSTILE) >= 2
    assert not {"script", "img"} & {name for name, _ in reader.elements}


def test_a_flow_that_was_not_tried_is_there() -> None:
    """Its findings stand, and that there is no passport."""
    untried = replace(result_of(told(BLUE)), evidence=None, passport=None)
    assert "It was not tried" in read(page(summary_of(untried), None)).text


def test_a_run_without_results_is_a_page() -> None:
    """Nothing judged is said, not hidden."""
    assert "nothing judged" in read(page(summary_of(), None)).text


def test_the_table_of_a_comparison_is_in_the_page() -> None:
    """Where scenarios have a place in one, the table that table.md has is here too."""
    result = result_of(told(BLUE))
    scenario = result.item.scenario.model_copy(update={"table": Table(row="one way", column="an attack")})
    item = result.item.model_copy(update={"scenario": scenario})
    assert (
        "an attack one way stopped at bigip" in read(page(summary_of(replace(result, item=item)), None)).text
    )


def test_a_ladder_shows_the_way_of_a_flow() -> None:
    """Hops stand in the order of the flow, arrows go from hop to hop, and SNAT shows both addresses."""
    evidence = told(RED)
    passport = joined(evidence)
    drawn = ladder(passport, evidence.attempt.started, 1)
    reader = read(drawn)
    assert drawn.count('class="life"') == len(passport.hops())
    arrows = drawn.count('class="way"')
    assert arrows >= 5
    assert "source translated:" in reader.text
    translated = [
        sighting for sighting in passport.sightings if sighting.onward != sighting.flow and sighting.onward
    ]
    for sighting in translated:
        assert sighting.flow is not None
        assert sighting.flow.src in reader.text
        assert sighting.onward is not None
        assert sighting.onward.src in reader.text


def test_a_flow_is_drawn_upon_the_topology() -> None:
    """Each flow has its way through the lab, told in words; the lab itself stands in the page once."""
    results = three()
    text = page(summary_of(*results), running())
    plan, bindings = lab()
    assert text.count('class="lab-box"') == svg(plan, bindings).count('class="lab-box"')
    assert text.count('<use href="#drawn-1"></use>') + text.count('<use href="#drawn-1"/>') == len(results)
    for number, result in enumerate(results, 1):
        assert result.passport is not None
        (words,) = re.findall(rf'<desc id="way-{number}-desc">(.*?)</desc>', text)
        for place, hop in enumerate(result.passport.hops(), 1):
            assert re.search(rf"(^|\. ){place} (✗ )?{re.escape(hop)}(:|\.|$)", words)
    assert "4 ✗ bigip" in text


def test_an_arrow_has_two_witnesses() -> None:
    """Where the tap of the hop behind saw nothing, no arrow leads there."""
    whole, part = told(RED), without(told(RED), at="tinyproxy", witness="tap")
    arrows = [ladder(joined(one), BEGUN, 1).count('class="way"') for one in (whole, replace(part))]
    assert arrows[1] < arrows[0]


def test_a_ladder_marks_who_said_no() -> None:
    """The hop's own record of its denial has a sign, not only a colour; an allowed flow has none."""
    for scenario, signs in ((BLUE, 1), (ROUND, 1), (RED, 0)):
        evidence = told(scenario)
        drawn = ladder(joined(evidence), evidence.attempt.started, 1)
        assert drawn.count('class="denied"') == signs, scenario
        assert read(drawn).text.count("✗") == signs, scenario


def test_how_to_repeat_a_flow() -> None:
    """The command names the file, the scenario and the driver, quoted for a shell."""
    result = result_of(told(BLUE))
    words = repeat(result, summary_of(result), None)
    assert words.startswith("egresslab test ")
    assert words.endswith(f"-k '{BLUE}' --driver fake")


def test_another_engine_is_repeated_with_it(tmp_path: Path) -> None:
    """A lab that is not what its file says was changed by --engine; the command says so."""
    plan, _ = lab()
    file = tmp_path / "lab.yaml"
    file.write_text("lab: tenants\n", encoding="utf-8")
    result = result_of(told(BLUE))
    same = FakeLab(plan, "paper", (str(file), "lab: tenants\n"), [])
    other = FakeLab(plan, "paper", (str(file), "lab: other\n"), [])
    assert "--engine" not in repeat(result, summary_of(result), same)
    assert "--engine=builtin" in repeat(result, summary_of(result), other)


def browse(path: Path, *options: str) -> tuple[str, str]:
    """Open a file in Chromium; return the document as it is then, and what the browser logged."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    done = subprocess.run(
        [*argv, f"--user-data-dir={path.parent / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Chromium does not start here: {done.stderr.decode(errors='replace')[-200:]}")
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def test_a_browser_opens_it_without_complaint(tmp_path: Path) -> None:
    """Opened from a file, the page logs nothing at the console; one that loads what it may not, does."""
    result = result_of(told(RED, lambda one: printing(one, HOSTILE, code=1)))
    folder = write(summary_of(*three(), result), running(), tmp_path)
    shown, log = browse(folder / "report.html")
    assert "bigip" in shown
    assert "CONSOLE" not in log
    assert "<title>taken" not in shown
    bad = folder / "bad.html"
    text = (folder / "report.html").read_text(encoding="utf-8")
    bad.write_text(text.replace("<main>", "<main><script>1</script>"), encoding="utf-8")
    assert "CONSOLE" in browse(bad)[1]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows_a_narrow_page(tmp_path: Path, width: int) -> None:
    """On a phone the page scrolls down only, with every flow unfolded; wide parts scroll by themselves."""
    folder = write(summary_of(*three(), nasty()), running(), tmp_path)
    text = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").write_text(text.replace("<details", "<details open"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        f"<!DOCTYPE html><iframe id=f width={width} height=800 style='border:0' src=report.html></iframe><script>"
        "onload = () => { const it = document.getElementById('f').contentDocument.documentElement;"
        "document.title = `${it.scrollWidth} of ${it.clientWidth}`; }</script>",
        encoding="utf-8",
    )
    shown, _ = browse(frame, "--allow-file-access-from-files")
    found = re.search(r"<title>(\d+) of (\d+)</title>", shown)
    assert found is not None
    assert int(found[2]) in range(width - 20, width + 1)
    assert int(found[1]) <= int(found[2])
