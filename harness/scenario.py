"""The scenario file: what must be true of a lab's flows. Frozen and validated."""

from __future__ import annotations

from itertools import chain, product
from typing import TYPE_CHECKING

from harness import capture, scenario_checks, shipped, source
from harness.capabilities import check_needs
from harness.errors import InputError, Problem
from harness.expect_model import (
    Allowed,
    Certificate,
    Client,
    Denied,
    Expect,
    Identity,
    MtlsMode,
    OtherTap,
    Outcome,
    Packets,
    RouteTo,
    Source,
    Split,
)
from harness.lab import MOST_COMPLAINTS, load_lab
from harness.scenario_model import (
    Defaults,
    Item,
    Matrix,
    Scenario,
    ScenarioFile,
    Step,
)
from harness.scenario_names import Words, sources, with_created, words_of
from harness.validation import Examined, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.lab import Lab

__all__ = [
    "Allowed",
    "Certificate",
    "Client",
    "Defaults",
    "Denied",
    "Expect",
    "Identity",
    "Item",
    "Matrix",
    "MtlsMode",
    "OtherTap",
    "Outcome",
    "Packets",
    "RouteTo",
    "Scenario",
    "ScenarioFile",
    "Source",
    "Split",
    "Step",
    "load_scenarios",
]


def load_scenarios(
    path: Path, lab: Lab | None = None, check_field: Callable[[str], None] = capture.check_name
) -> tuple[Item, ...]:
    """Return the cases of a scenario file; none when it is YAML that has no `scenarios` at its top.

    Without `lab`, the one that the file names is read. `check_field` raises ValueError for the name of a
    packet's layer or field that nobody knows (scapy knows IP.ttl). Names are unique among the files of a folder that
    are for the same lab, and a control may be in another of them.

    Raises InputError with every problem of the file, and those of its lab.
    """
    document = _scenario_document(path)
    if document is None:
        return ()
    found = examine(document, ScenarioFile)
    problems: set[Problem | str] = set(found.problems)
    if lab is None and isinstance(document.data.get("lab"), str):
        try:
            lab = load_lab(shipped.lab_of_document(document))
        except InputError as error:
            raise InputError(*sorted(problems | set(error.problems), key=_order)) from None
    if found.instance is None or lab is None:
        raise InputError(*sorted(problems, key=_order))
    words = words_of(lab)
    neighbours = list(_neighbours(path, document))
    problems |= set(_problems(document, found, words, neighbours, check_field))
    if problems:
        raise InputError(*sorted(problems, key=_order))
    cases = _Cases(words, [(document, found.instance), *neighbours])
    return tuple(item for scenario in found.instance.scenarios for item in cases.of(scenario.name))


def _order(problem: Problem | str) -> tuple[str, int, int, str]:
    if isinstance(problem, str):
        return ("", 0, 0, problem)
    return (problem.path, problem.line, problem.column, problem.message)


def _scenario_document(path: Path) -> source.Document | None:
    """Return the parsed file, or None when it is another kind of YAML, in our dialect or not."""
    content = source.read_bytes(path)
    if b"scenarios" not in content.replace(b"\0", b""):
        return None
    document = source.parse(content, str(path))
    return document if isinstance(document.data, dict) and "scenarios" in document.data else None


def _neighbours(path: Path, document: source.Document) -> Iterator[tuple[source.Document, ScenarioFile]]:
    """Yield what can be used of the folder's other scenario files that are for the same lab."""
    for other in sorted(path.parent.glob("*.yaml")):
        if other.name == path.name:
            continue
        try:
            parsed = _scenario_document(other)
            found = examine(parsed, ScenarioFile) if parsed is not None else None
        except InputError:
            continue  # it is reported when it is loaded itself
        instance = found.instance if found is not None else None
        if parsed is not None and instance is not None and _lab_word(parsed) == _lab_word(document):
            yield parsed, instance


def _lab_word(document: source.Document) -> str:
    try:
        return str(shipped.lab_of_document(document))
    except InputError:
        return str(document.data.get("lab"))


def _problems(
    document: source.Document,
    found: Examined[ScenarioFile],
    words: Words,
    neighbours: list[tuple[source.Document, ScenarioFile]],
    check_field: Callable[[str], None],
) -> Iterator[Problem]:
    own = found.instance.scenarios if found.instance is not None else ()
    elsewhere = {scenario.name: other.path for other, file in neighbours for scenario in file.scenarios}
    others = {scenario.name: scenario for _, file in neighbours for scenario in file.scenarios}
    others |= {scenario.name: scenario for scenario in own}
    broken = {
        entry["name"]
        for entry in document.data.get("scenarios") or ()
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"] not in others
    }
    seen: set[str] = set()
    complaints = 0
    for index, scenario in enumerate(own):
        loc = found.original(("scenarios", index))
        if scenario.name in seen or scenario.name in elsewhere:
            where = "in this file" if scenario.name in seen else f"in {elsewhere[scenario.name]}"
            yield document.problem((*loc, "name"), f"scenario {scenario.name!r} is there already, {where}")
        seen.add(scenario.name)
        if complaints > MOST_COMPLAINTS:
            return
        checks = scenario_checks.check(scenario, words, others, check_field)
        for place, message in chain(checks, check_needs(scenario, words.lab)):
            complaints += 1
            full = found.original(("scenarios", index, *place))
            if not found.touched(full, message) and not (
                place == ("control",) and scenario.control in broken
            ):
                yield document.problem(full, message)


class _Cases:
    """Expands scenarios to items, controls first."""

    def __init__(self, words: Words, files: list[tuple[source.Document, ScenarioFile]]) -> None:
        self._words = words
        self._written = {
            scenario.name: (scenario, document, index, file.defaults)
            for document, file in reversed(files)
            for index, scenario in enumerate(file.scenarios)
        }
        self._done: dict[str, tuple[Item, ...]] = {}

    def of(self, name: str) -> tuple[Item, ...]:
        if name not in self._done:
            self._done[name] = ()  # what a circle of controls finds; the file where it stands reports it
            self._done[name] = tuple(self._expand(name)) if name in self._written else ()
        return self._done[name]

    def _expand(self, name: str) -> Iterator[Item]:
        scenario, document, index, defaults = self._written[name]
        line, _ = document.position(("scenarios", index))
        controls = self.of(scenario.control) if scenario.control is not None else ()
        patterns = scenario.from_ or scenario.matrix.from_
        words = with_created(self._words, scenario)
        senders = dict.fromkeys(sender for pattern in patterns for sender in sources(pattern, words))
        targets = dict.fromkeys(scenario.matrix.to or (scenario.to,))
        proxies = dict.fromkeys(scenario.matrix.through or (scenario.through,))
        attacks = dict.fromkeys(scenario.matrix.attack or (scenario.attack,))
        many = len(patterns) > 1 or "*" in patterns[0] or bool(scenario.matrix.from_)
        in_turn: tuple[str, ...] = ()
        if scenario.load is not None and scenario.load.in_turn and senders:
            in_turn, senders, many = tuple(senders), dict.fromkeys([next(iter(senders))]), False
        completed = _with_defaults(scenario, defaults)
        for pod, target, proxy, attack in product(senders, targets, proxies, attacks):
            varying = [
                value
                for value, varies in (
                    (pod, many),
                    (target, scenario.matrix.to),
                    (proxy, scenario.matrix.through),
                    (attack, scenario.matrix.attack),
                )
                if varies
            ]
            yield Item(
                id=f"{name} [{', '.join(map(str, varying))}]" if varying else name,
                scenario=completed,
                source=pod,
                sources=in_turn,
                to=target,
                through=proxy,
                attack=attack,
                path=document.path,
                line=line,
                controls=controls,
            )


def _with_defaults(scenario: Scenario, defaults: Defaults) -> Scenario:
    """Return the scenario with what its file says for all; `within` never holds for a denial."""
    within = scenario.within or (defaults.within if scenario.expect.allowed is not None else None)
    return scenario.model_copy(update={"within": within, "stable": scenario.stable or defaults.stable})
