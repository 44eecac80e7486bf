"""Who tests the tests: runs a lab's scenarios against each mutant of the lab, and says which no scenario notices.

A mutant is applied to a lab that stands and undone after it. It is caught when a case is broken by it, twice, that
held before and holds again without it; unknown catches nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from harness import bird
from harness.errors import LabError
from harness.lab_words import seconds_of
from harness.run import WINDOW_SECONDS, Result, Session
from harness.running import MutableLab
from harness.steps import await_convergence

if TYPE_CHECKING:
    from harness.mutants import Mutant
    from harness.scenario import Item

Fate = Literal["caught", "missed", "failed"]
"""`failed`: the mutant could not be made, or what it broke stayed broken without it."""

WITHIN = "1s"
"""What `within` is cut to: what a mutant broke is not waited for as long as what may only be late."""


@dataclass(frozen=True)
class Tried:
    """A mutant and what came of it: by which case it was caught, and what that case saw; seconds."""

    mutant: Mutant
    fate: Fate
    by: str
    seen: str
    seconds: float
    spoiled: bool = False
    """The lab did not come back; that the case holds without the mutant is to be seen on another copy."""


@dataclass(frozen=True)
class Baseline:
    """The cases as they hold on the lab as it is: in which order to try them for a mutant, and where each was seen."""

    items: tuple[Item, ...]
    hops: Mapping[str, frozenset[str]]
    seconds: Mapping[str, float]

    def order(self, hops: Sequence[str]) -> tuple[Item, ...]:
        """Return the cases, those first that were seen where the mutant is, of these the quickest."""
        touched = set(hops)

        def rank(item: Item) -> tuple[bool, bool, float]:
            return not touched & self.hops[item.id], item.scenario.run is not None, self.seconds[item.id]

        return tuple(sorted(self.items, key=rank))


def hurried(item: Item) -> Item:
    """Return a case that is not tried again for long; its controls are cut short with it."""
    scenario = item.scenario
    if scenario.within is not None and seconds_of(scenario.within) > seconds_of(WITHIN):
        scenario = scenario.model_copy(update={"within": WITHIN})
    controls = tuple(hurried(control) for control in item.controls)
    return item.model_copy(update={"scenario": scenario, "controls": controls})


def baseline(items: Sequence[Item], results: Sequence[Result]) -> Baseline:
    """Return what results, of which every one held, say of the cases."""
    return Baseline(
        tuple(map(hurried, items)),
        {result.item.id: frozenset(_hops(result)) for result in results},
        {result.item.id: result.seconds for result in results},
    )


def _hops(result: Result) -> Iterator[str]:
    yield result.item.source
    for sighting in result.passport.sightings if result.passport else ():
        yield sighting.at.partition(" ")[0]


def attempt(lab: MutableLab, mutant: Mutant, known: Baseline) -> Tried:
    """Apply a mutant, run cases until one is broken, undo it, and see that this one holds again.

    Raises LabError when the mutant cannot be undone: the lab is of no more use.
    """
    begun = time.monotonic()
    fate: Fate = "missed"
    by = seen = ""
    with lab.window(WINDOW_SECONDS):
        failure = ""
        try:
            lab.mutate(mutant.mutation)
            found = _first_broken(lab, known.order(mutant.hops))
        except LabError as error:
            failure, found = str(error), None
        try:
            lab.mutate(None)
            _settle(lab)
        except LabError as error:
            if found is None:
                raise
            seen = "; ".join(str(finding) for finding in found.verdict.reasons)
            taken = time.monotonic() - begun
            return Tried(mutant, "caught", found.item.id, f"{seen} ({error})", taken, spoiled=True)
        if failure:
            fate, seen = "failed", failure
        elif found is not None:
            by, seen = found.item.id, "; ".join(str(finding) for finding in found.verdict.reasons)
            again = Session(lab).run(found.item).verdict
            if (
                again.state != "held"
            ):  # the first flow of pods that were made anew asks for hardware addresses
                again = Session(lab).run(found.item).verdict
            fate = "caught" if again.state == "held" else "failed"
            seen = seen if fate == "caught" else f"still {again}"
    return Tried(mutant, fate, by, seen, time.monotonic() - begun)


def _confirmed(lab: MutableLab, found: Tried, known: Baseline) -> Tried:
    """Return what came of a mutant that spoiled its lab, once its case was tried on one that is whole."""
    item = next(item for item in known.items if item.id == found.by)
    again = Session(lab).run(item).verdict
    return found if again.state == "held" else replace(found, fate="failed", seen=f"still {again}")


def _first_broken(lab: MutableLab, items: Sequence[Item]) -> Result | None:
    session = Session(lab, items)
    for item in items:
        try:
            result = session.run(item)
        except LabError:
            continue  # a step that the lab no longer takes says nothing of a flow
        # on a busy machine one flow in thousands comes to nothing by itself: only what happens again is the mutant's
        if result.verdict.state == "broken" and _again(lab, item):
            return result
    return None


def _again(lab: MutableLab, item: Item) -> bool:
    try:
        return Session(lab).run(item).verdict.state == "broken"
    except LabError:
        return False


def _settle(lab: MutableLab) -> None:
    if any(bird.runs_on(node, lab.plan) for node in lab.plan.nodes):
        await_convergence(lab)


def hunt(
    start: Callable[[], MutableLab],
    mutants: Iterable[Mutant],
    known: Baseline,
) -> Iterator[Tried]:
    """Try mutants one after the other on a lab from `start`; on another one where a mutant spoiled it."""
    lab = start()
    try:
        for mutant in mutants:
            try:
                found = attempt(lab, mutant, known)
            except LabError as error:
                found = Tried(mutant, "failed", "", str(error), 0.0)
            if found.fate == "failed" or found.spoiled:
                lab.close()
                lab = start()
            yield _confirmed(lab, found, known) if found.spoiled else found
    finally:
        lab.close()
