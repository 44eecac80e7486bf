"""Scenario -> attempt -> evidence -> verdict, on a lab that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from harness.attempt import observe
from harness.batches import Judged, beside, is_one_of_many, is_probed_denial, lean
from harness.denial import decision_of, decisions, rule_of
from harness.evidence import Attempt, Evidence, Finding, State
from harness.lab_words import seconds_of
from harness.load import Changed, judge_load
from harness.passport import Passport
from harness.read_routing import Since
from harness.running import ChangeableLab, Mark, RunningLab
from harness.scenario import Item, Step
from harness.steps import given
from harness.verdict import Verdict, conclude, judge, outcome_of

WINDOW_SECONDS = 60.0


@dataclass(frozen=True)
class Result:
    """What came of one item; `tries` counts attempts, `flaky` says that their verdicts differed.

    Of a `load`, how many flows came to what.
    """

    item: Item
    verdict: Verdict
    evidence: Evidence | None
    passport: Passport | None
    seconds: float
    tries: int = 1
    flaky: bool = False
    load: Mapping[State, int] | None = None


class Session:
    """One run of scenarios on one lab; controls are run once for each generation of it, whatever was selected.

    Probes that are to be denied by the same control, and those of one scenario that are to be allowed, are sent
    together, in one window: their source ports are bound beforehand, so that everything seen of them can be told apart.
    """

    def __init__(
        self,
        lab: RunningLab,
        selected: Sequence[Item] = (),
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lab = lab
        self._earlier: Mark | None = None
        self._results: dict[str, Result] = {}
        self._proven: dict[str, Result] = {}
        self._since: Since | None = None
        self._told = told
        self._selected = tuple(selected)

    def run(self, item: Item) -> Result:
        """Return the result of an item; an item that already ran as a control is not run again."""
        if item.id not in self._results:
            begun = time.monotonic()
            if item.scenario.given:
                result = self._run_given(item)
                self._results[item.id] = replace(result, seconds=time.monotonic() - begun)
                return self._results[item.id]
            failed = self._failed_control(item)
            if failed is not None:
                self._results[item.id] = Result(
                    item, conclude([failed]), None, None, time.monotonic() - begun
                )
            elif is_probed_denial(item):
                self._run_denials(item)
            elif is_one_of_many(item, self._lab.plan):
                self._run_matrix(item)
            else:
                result = self._run(item)
                self._results[item.id] = replace(result, seconds=time.monotonic() - begun)
            if not item.scenario.during:
                self._proven[item.id] = self._results[item.id]
        return self._results[item.id]

    def _run_denials(self, item: Item) -> None:
        """Run a denial, and with it the selected ones that rest on the same control."""
        begun = time.monotonic()
        wanted = item.scenario.stable or 1
        together = beside(item, self._selected, self._results) if wanted == 1 else [item]
        for one, result in self._together(together):
            self._results[one.id] = result
        for tries in range(2, wanted + 1):
            if self._results[item.id].verdict.state != "held":
                return
            evidence, passport, verdict = self._attempt([item])[0]
            self._results[item.id] = Result(
                item, verdict, evidence, passport, time.monotonic() - begun, tries
            )

    def _run_matrix(self, item: Item) -> None:
        """Run an allowed probe, and with it the selected ones of its scenario.

        What could not be told apart in company is tried alone, and what may be tried again (`within`) as well.
        """
        for one, result in self._together(beside(item, self._selected, self._results)):
            again = one.scenario.within or (result.passport and result.passport.ambiguous)
            if result.verdict.state != "held" and again:
                begun = time.monotonic()
                alone = self._run(one)
                flaky = alone.flaky or {alone.verdict.state, result.verdict.state} == {"held", "broken"}
                seconds = result.seconds + time.monotonic() - begun
                self._results[one.id] = replace(alone, seconds=seconds, tries=alone.tries + 1, flaky=flaky)
            else:
                self._results[one.id] = result
            self._proven[one.id] = self._results[one.id]

    def _together(self, items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        """Try probes in one window; yield each with its own result and its share of the time."""
        begun = time.monotonic()
        others = f", and {len(items) - 1} more" if len(items) > 1 else ""
        self._told(f"{items[0].id}{others}")
        found = lean(self._attempt(items))
        share = (time.monotonic() - begun) / len(found)
        for item, (evidence, passport, verdict) in zip(items, found, strict=True):
            yield item, Result(item, verdict, evidence, passport, share)

    def _run_load(self, item: Item, flows: int) -> Result:
        """Run an item's flow many times, and its steps meanwhile; they are undone when all was judged."""
        lab, changed, steps = self._lab, list[Changed](), None
        with lab.window(WINDOW_SECONDS), ExitStack() as undo:
            if item.scenario.during:
                if not isinstance(lab, ChangeableLab):
                    return _cannot_change(item)
                steps = partial(_change, lab, item, undo, changed)
            senders = item.sources or (item.source,)
            sent = [
                item.model_copy(update={"source": senders[number % len(senders)]}) for number in range(flows)
            ]
            observed, self._earlier = observe(lab, sent, self._earlier, steps, self._since)
            found = judge_load(item, observed, changed[0] if changed else None)
        if changed:
            self._proven.clear()
            self._earlier = None
        return Result(item, found.verdict, found.evidence, found.passport, 0.0, load=found.states)

    def _run(self, item: Item) -> Result:
        self._told(item.id)
        if item.scenario.load is not None:
            return self._run_load(item, item.scenario.load.flows)
        word, _ = outcome_of(item.scenario.expect)
        # a denial is never tried again: one admission is broken
        limit = seconds_of(item.scenario.within) if word == "allowed" and item.scenario.within else 0.0
        wanted = item.scenario.stable or 1
        deadline = time.monotonic() + limit
        states: list[str] = []
        in_a_row = 0
        while True:
            evidence, passport, verdict = self._attempt([item])[0]
            states.append(verdict.state)
            in_a_row = in_a_row + 1 if verdict.state == "held" else 0
            refused = verdict.state != "held" and word != "allowed"
            if in_a_row >= wanted or refused or (verdict.state != "held" and time.monotonic() >= deadline):
                break
        return Result(item, verdict, evidence, passport, 0.0, len(states), len(set(states)) > 1)

    def _run_given(self, item: Item) -> Result:
        """Run an item on the lab that its steps make; each step is a new generation, for which controls run anew.

        A control whose pod the steps take away runs before them.
        """
        lab = self._lab
        if not isinstance(lab, ChangeableLab):
            return _cannot_change(item)
        with lab.window(WINDOW_SECONDS):
            self._proven.clear()
            deleted = {step.delete for step in item.scenario.given}
            before = [control for control in item.controls if control.source in deleted]
            failed = self._failed(item, before)
            try:
                if failed is None:
                    mark = lab.mark()
                    with given(lab, item.scenario.given) as done:
                        self._since = Since(mark, done)
                        self._proven.clear()
                        self._earlier = None
                        after = [control for control in item.controls if control.source not in deleted]
                        failed = self._failed(item, after)
                        if failed is None:
                            return self._run(item)
                return Result(item, conclude([failed]), None, None, 0.0)
            finally:
                self._proven.clear()
                self._earlier = self._since = None

    def _failed_control(self, item: Item) -> Finding | None:
        """Run the controls first: a denial proves nothing where the allowed flow does not pass either."""
        return self._failed(item, item.controls)

    def _failed(self, item: Item, controls: Sequence[Item]) -> Finding | None:
        for control in controls:
            if control.id not in self._proven:
                own = self._results.get(control.id)
                self._proven[control.id] = (
                    self._run(control) if own or item.scenario.given else self.run(control)
                )
            result = self._proven[control.id]
            if result.verdict.state != "held":
                seen = str(result.verdict)
                return Finding("control", "unknown", item.source, f"the control {control.id!r} held", seen)
        return None

    def _attempt(self, items: Sequence[Item]) -> list[Judged]:
        """Try one item, or several probes at once, with the lab to ourselves; judge each by the same recordings."""
        with self._lab.window(WINDOW_SECONDS):
            observed, self._earlier = observe(self._lab, items, self._earlier, since=self._since)
        return [(evidence, passport, judge(evidence, passport)) for evidence, passport in observed]


def _change(lab: ChangeableLab, item: Item, undo: ExitStack, changed: list[Changed]) -> None:
    """Do the steps of an item's load, and note when."""
    began = time.time_ns()
    undo.enter_context(given(lab, item.scenario.during))
    changed.append(Changed(began, time.time_ns()))


def _cannot_change(item: Item) -> Result:
    missing = Finding(
        "capability", "unknown", item.source, "a lab that can be changed", "this driver's cannot"
    )
    return Result(item, conclude([missing]), None, None, 0.0)


def as_record(result: Result) -> Mapping[str, object]:
    """Return a result as plain data, for flows.jsonl and other programs."""
    passport, evidence = result.passport, result.evidence
    attempt = evidence.attempt if evidence else None
    return {
        "id": result.item.id,
        "scenario": result.item.scenario.name,
        "file": result.item.path,
        "line": result.item.line,
        "from": result.item.source,
        "to": result.item.to,
        "through": result.item.through,
        "run": result.item.scenario.run,
        **({"presents": result.item.scenario.presents} if result.item.scenario.presents else {}),
        **({"attack": result.item.attack} if result.item.attack else {}),
        "given": _steps(result.item.scenario.given),
        **({"during": _steps(result.item.scenario.during)} if result.item.scenario.during else {}),
        "table": result.item.scenario.table.model_dump() if result.item.scenario.table else None,
        "verdict": result.verdict.state,
        "findings": [vars(finding) for finding in result.verdict.findings],
        "tries": result.tries,
        "flaky": result.flaky,
        **({"load": dict(result.load)} if result.load else {}),
        "seconds": round(result.seconds, 4),
        "started": attempt.started if attempt else None,
        "ended": attempt.ended if attempt else None,
        "client": _client(attempt),
        "decided": [
            {"at": at, "decision": word, "by": rule}
            for at, word, rule in (decided(passport) if passport else ())
        ],
        "translated": [
            {"at": at, "from": before, "to": after}
            for at, before, after in (translated(passport) if passport else ())
        ],
        "passport": [
            {
                "at": sighting.at,
                "witness": sighting.witness,
                "event": sighting.event,
                "time": sighting.time,
                "flow": str(sighting.flow) if sighting.flow else None,
                "onward": str(sighting.onward) if sighting.onward else None,
                **({"facts": dict(sighting.facts)} if sighting.facts else {}),
            }
            for sighting in (passport.sightings if passport else ())
        ],
    }


def decided(passport: Passport) -> Iterable[tuple[str, str, str]]:
    """Return (hop, decision, rule) of each decision about a flow, in the order of its hops."""
    found = (one for hop in passport.hops() for one in decisions(hop, passport))
    return dict.fromkeys((one.at, decision_of(one), rule_of(one)) for one in found)


def translated(passport: Passport) -> Iterable[tuple[str, str, str]]:
    """Return (hop, before, after) of each source address that connection tracking saw translated."""
    return dict.fromkeys(
        (one.at, one.flow.src, one.onward.src)
        for one in passport.sightings
        if one.witness == "conntrack" and one.flow and one.onward and one.flow.src != one.onward.src
    )


def _steps(steps: Sequence[Step]) -> list[Mapping[str, object]]:
    return [step.model_dump(by_alias=True, exclude_none=True) for step in steps]


def _client(attempt: Attempt | None) -> Mapping[str, object] | None:
    if attempt is None:
        return None
    if attempt.command is not None:
        return {"exit": attempt.command.code, "printed": attempt.text}
    outcome = attempt.outcome
    return {"status": outcome.status, "stage": outcome.stage, "detail": outcome.detail} if outcome else None
