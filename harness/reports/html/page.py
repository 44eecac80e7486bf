"""The page: summary, truth table, topology, and each flow with its ladder, findings and passport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness import __version__, graph
from harness.comparison import compare
from harness.correlation import correlate
from harness.evidence import Evidence, Sighting
from harness.exercised import of_run
from harness.explain import arrow
from harness.flow_path import stops_of
from harness.markup import Markup, element, joined
from harness.passport import Passport
from harness.plan import Bindings, Plan
from harness.report import MANY, MOST_TOLD, Summary, by_scenario, told, worst
from harness.reports.html.again import repeat
from harness.reports.html.ladder import key, ladder
from harness.reports.html.truth import SIGNS, badge, expected, table_of, target, truth_table
from harness.run import Result
from harness.running import RunningLab

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: a browser fetches nothing and runs nothing, whatever stands in the page."""


def page(summary: Summary, lab: RunningLab | None, beside: Sequence[str] = ()) -> str:
    """Return the page; `beside` are the run's other files."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    title = f"{summary.lab}: {', '.join(_counts(summary)) or 'nothing judged'}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(style)),
    )
    topologies = _Topologies(summary, lab)
    parts = {
        "Summary": [_summary(summary, beside)],
        "Scenarios": list(_scenarios(summary)),
        "Truth table": [truth_table(_numbered(summary))],
        "Comparison": list(_compared(summary)),
        "Tenants": list(_tenants(summary)),
        "Topology": list(topologies.whole()),
        "Exercised": list(_exercised(summary)),
        "Flows": [key(), *_flows(summary, lab, topologies)],
        "Skipped": list(_skipped(summary)),
    }
    sections = [_section(heading, *content) for heading, content in parts.items() if content]
    header = element("header", element("h1", summary.lab), element("p", summary.title))
    words = f"Egress Lab {__version__}; the same data is in flows.jsonl."
    body = element(
        "body",
        header,
        _navigation([heading for heading, content in parts.items() if content]),
        element("main", *sections),
        element("footer", words),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(heading: str, *content: object) -> Markup:
    name = _name(heading)
    title = element("h2", heading, id=f"{name}-heading")
    return element("section", title, *content, id=name, aria_labelledby=f"{name}-heading")


def _name(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _navigation(headings: Sequence[str]) -> Markup:
    links = (element("li", element("a", heading, href=f"#{_name(heading)}")) for heading in headings)
    return element("nav", element("ul", *links), aria_label="Parts of this page")


def _counts(summary: Summary) -> list[str]:
    skipped = {"skipped": len(summary.skipped)}
    return [f"{number} {state}" for state, number in (summary.counts | skipped).items() if number]


def _summary(summary: Summary, beside: Sequence[str]) -> Markup:
    counts = [
        element("li", f"{SIGNS.get(word.split()[1], '-')} {word}", class_=word.split()[1])
        for word in _counts(summary)
    ]
    facts = (
        ("started", summary.started.isoformat(sep=" ", timespec="seconds")),
        ("took", f"{summary.seconds:.2f} s"),
        ("driver", summary.driver),
        ("flaky", ", ".join(result.item.id for result in summary.results if result.flaky) or "none"),
    )
    files = [element("li", element("a", name, href=name)) for name in beside]
    phases = [(name, f"{seconds:.3f} s") for name, seconds in summary.phases]
    return joined(
        [
            element("ul", *counts, class_="counts"),
            _facts(facts),
            element("h3", "Files of this run") if files else "",
            element("ul", *files) if files else "",
            _folded("Time of each phase, and versions", _facts([*phases, *summary.versions.items()])),
        ]
    )


def _facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    return element("dl", *(joined([element("dt", name), element("dd", value)]) for name, value in pairs))


def _folded(heading: str, *content: object) -> Markup:
    return element("details", element("summary", heading), *content)


def _numbered(summary: Summary) -> list[tuple[int, Result]]:
    """Return the results that the page tells in full, each with its number among all."""
    full = set(map(id, told(summary.results)))
    return [(number, result) for number, result in enumerate(summary.results, 1) if id(result) in full]


def _scenarios(summary: Summary) -> Iterator[Markup]:
    """Yield a table of the scenarios, those that did not hold first, where some have too many cases to tell each."""
    groups = by_scenario(summary.results)
    if all(len(group) <= MANY for group in groups):
        return
    order = ("broken", "unknown", "held")
    rows = []
    for group in sorted(groups, key=lambda group: order.index(worst(group))):
        states = [result.verdict.state for result in group]
        counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
        rows.append((badge(worst(group)), group[0].item.scenario.name, expected(group[0]), counts))
    yield _rows(("verdict", "scenario", "expected", "flows"), rows, "What came of each scenario", "scenarios")
    number = len(summary.results) - len(_numbered(summary))
    yield element(
        "p",
        f"Of scenarios of more than {MANY} cases, the truth table and the flows below have those that did not hold, "
        f"{MOST_TOLD} of each at most, or one that stands for all. The other {number} flows are in flows.jsonl.",
    )


def _rows(
    heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str, name: str, *, headed: bool = False
) -> Markup:
    """Return a table with a heading above each column; of a `headed` one, the first cell of a row is its heading."""
    top = element("thead", element("tr", *(element("th", head, scope="col") for head in heads)))
    lines = []
    for row in rows:
        cells = [element("td", cell) for cell in row]
        if headed:
            cells[0] = element("th", row[0], scope="row")
        lines.append(element("tr", *cells))
    return table_of(joined([element("caption", caption), top, element("tbody", *lines)]), name)


def _compared(summary: Summary) -> Iterator[Markup]:
    found = compare(summary.results)
    if found is not None:
        rows = [(row, *found.line(row)) for row in found.rows]
        yield _rows(("", *found.columns), rows, "What came of each", "compared", headed=True)


def _tenants(summary: Summary) -> Iterator[Markup]:
    found = correlate(summary.results)
    if found is not None:
        caption = "Who was who: from the workload to the last hop's own line, by what each hop recorded"
        yield _rows(found.heads, found.rows, caption, "tenants", headed=True)


def _exercised(summary: Summary) -> Iterator[Markup]:
    """Yield how much of the lab the flows of the run met, and what none of them did."""
    met = of_run(summary.results)
    if met is not None:
        rows = [(kind, f"{some} of {every}") for kind, (some, every) in met.counts.items()]
        yield _rows(("parts", "met by a flow"), rows, "What the flows exercised", "exercised", headed=True)
        if met.missing:
            yield element("h3", "Met by no flow")
            yield element("ul", *(element("li", str(part)) for part in met.missing))


class _Topologies:
    """The pictures of the lab that a page needs: each stands in it once, and flows are drawn upon it by reference."""

    def __init__(self, summary: Summary, lab: RunningLab | None) -> None:
        seen = next((result.evidence for result in summary.results if result.evidence is not None), None)
        self._known = lab or seen
        self._drawn: dict[Markup, str] = {}
        self._pictures: dict[tuple[int, int], graph.Picture] = {}

    def whole(self) -> Iterator[Markup]:
        """Yield the lab as it is at the end of the run, or was at a flow when it is no longer there."""
        if self._known is not None:
            found = self._picture(self._known.plan, self._known.bindings)
            yield _wide(graph.framed(found, "topology", self._once(found), styled=True), "topology")

    def way(self, evidence: Evidence, passport: Passport, number: int) -> Markup:
        """Return a flow's way through the lab as it was then."""
        found = self._picture(evidence.plan, evidence.bindings)
        stops = stops_of(passport, evidence.plan)
        drawn = graph.framed(found, f"way-{number}", self._once(found), stops, listed=False)
        words = (element("li", stop.told(), class_="broken" if stop.denied else None) for stop in stops)
        return joined([_wide(drawn, "way through the lab"), element("ol", *words, class_="stops")])

    def _picture(self, plan: Plan, bindings: Bindings) -> graph.Picture:
        """Return the picture of a lab, drawn once for all flows that saw it as it was: a large one takes a second."""
        key = id(plan), id(bindings)
        if key not in self._pictures:
            self._pictures[key] = graph.picture(plan, bindings)
        return self._pictures[key]

    def _once(self, found: graph.Picture) -> Markup:
        """Return a picture's parts the first time, after that a reference to them."""
        name = self._drawn.get(found.drawn)
        if name is not None:
            return element("use", href=f"#{name}")
        name = self._drawn[found.drawn] = f"drawn-{len(self._drawn) + 1}"
        return element("g", found.drawn, id=name)


def _wide(drawn: Markup, name: str) -> Markup:
    return element("div", drawn, class_="scroll", role="region", aria_label=name, tabindex="0")


def _flows(summary: Summary, lab: RunningLab | None, topologies: _Topologies) -> Iterator[Markup]:
    for number, result in _numbered(summary):
        state = result.verdict.state
        heading = element("h3", badge(state), f" {result.item.id}")
        yield element(
            "details",
            element("summary", heading),
            *_flow(result, summary, lab),
            *_ways(number, result, topologies),
            id=f"flow-{number}",
            class_=f"flow {state}",
            open=None if state == "held" else "open",
        )


def _skipped(summary: Summary) -> Iterator[Markup]:
    """Yield what was not run, and why."""
    if summary.skipped:
        rows = [(one.item.id, one.capability, one.reason) for one in summary.skipped]
        yield _rows(("case", "needs", "and"), rows, "Not run on this machine", "skipped")


def _flow(result: Result, summary: Summary, lab: RunningLab | None) -> Iterator[object]:
    """Yield what one flow is, and its findings; what differed first."""
    item = result.item
    facts: list[tuple[str, object]] = [("from", item.source), ("does", element("code", target(result)))]
    for word, steps in (("given", item.scenario.given), ("during", item.scenario.during)):
        if steps:
            facts.append((word, "; ".join(" ".join(step.does) for step in steps)))
    facts += [("expected", expected(result)), ("took", f"{result.seconds:.2f} s, tries: {result.tries}")]
    if result.flaky:
        facts.append(("flaky", "its verdicts were not all alike"))
    if result.load:
        facts.append(("flows", ", ".join(f"{count} {state}" for state, count in result.load.items())))
    facts.append(("written in", f"{item.path}:{item.line}"))
    facts.append(("again", element("code", repeat(result, summary, lab))))
    yield _facts(facts)
    findings = sorted(result.verdict.findings, key=lambda finding: finding.state == "held")
    rows = [
        (badge(finding.state), finding.check, finding.at, finding.expected, finding.seen)
        for finding in findings
    ]
    yield _rows(("verdict", "check", "at", "expected", "seen"), rows, "Findings", "findings")


def _ways(number: int, result: Result, topologies: _Topologies) -> Iterator[Markup]:
    """Yield the diagrams of a flow: its way through the lab, and what was seen of it, in order of time."""
    evidence, passport = result.evidence, result.passport
    if evidence is None or passport is None:
        yield element("p", "It was not tried: there is no passport.")
        return
    if passport.sightings:
        yield element("h4", "Way through the lab")
        yield topologies.way(evidence, passport, number)
        yield element("h4", "In order of time")
        yield _wide(ladder(passport, evidence.attempt.started, number), "ladder diagram")
    yield from _seen(evidence, passport)


def _seen(evidence: Evidence, passport: Passport) -> Iterator[Markup]:
    begun = evidence.attempt.started
    seen = [_sighting(sighting, begun, "") for sighting in passport.sightings]
    strays = [_sighting(sighting, begun, "unaccounted for: ") for sighting in passport.strays]
    heads = ("ms", "hop", "witness", "saw", "as it arrived", "as it left", "facts")
    yield _rows(heads, [*seen, *strays], "Passport", "passport")
    for reason in passport.ambiguous:
        yield element("p", f"Cannot be told apart: {reason}")
    yield _folded("What the client printed", element("pre", evidence.attempt.text or "nothing"))


def _sighting(sighting: Sighting, begun: int, sign: str) -> tuple[str, ...]:
    flow, onward = sighting.flow, sighting.onward
    left = arrow(onward) if onward and onward != flow else ""
    facts = "; ".join(f"{name}: {value}" for name, value in sighting.facts.items() if value)
    moment = f"{(sighting.time - begun) / 1e6:.2f}"
    return (
        moment,
        sighting.at,
        sighting.witness,
        sign + sighting.event,
        arrow(flow) if flow else "",
        left,
        facts,
    )
