"""`certificate`: that the certificate which a hop saw is the one in use, and was put in the place of another.

While a load runs, that the certificate before was seen and then the one in use, each flow with its time in the hop's
own log. What was issued to whom is known; what was used is read from the log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Certificate

_SHOWN = 12
"""Characters of a fingerprint that a person compares."""

_IN_USE = "the certificate in use, in the place of another"
_IN_TURN = "the certificate before, then the one in use"


@dataclass(frozen=True)
class _Seen:
    """A certificate in a hop's log of a flow, at `time` (ns): whose it is, the how manieth, and of how many.

    `arrived` is when the hop first saw anything of the connection.
    """

    fingerprint: str
    time: int
    arrived: int
    holder: str
    number: int
    last: int

    @property
    def in_use(self) -> bool:
        return self.number == self.last

    def __str__(self) -> str:
        whose = (
            f"certificate {self.number} of {self.last} of {self.holder}"
            if self.holder
            else "issued to nobody here"
        )
        return f"{whose} ({self.fingerprint[:_SHOWN]}...)"


def judge(expected: Certificate, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield a finding for each certificate in the hop's own log of this flow; none is unknown.

    What is to change while a load runs is for `judge_all`.
    """
    if evidence.attempt.item.scenario.during:
        return
    seen = _seen_by(expected.at, evidence, passport)
    if not seen:
        yield Finding(
            "certificate", "unknown", expected.at, _IN_USE, "no certificate in its log for this flow"
        )
    for one in seen:
        state: State = "held" if one.in_use and one.last > 1 else "broken"
        yield Finding("certificate", state, expected.at, _IN_USE, str(one))


def judge_all(expected: Certificate, observed: Sequence[tuple[Evidence, Passport]]) -> Iterator[Finding]:
    """Yield one finding about a load during which certificates change; it says when each was seen."""
    if not observed[0][0].attempt.item.scenario.during:
        return
    flows = [(evidence, _seen_by(expected.at, evidence, passport)) for evidence, passport in observed]
    state, seen = _in_turn(flows)
    yield Finding("certificate", state, expected.at, _IN_TURN, seen)


def _in_turn(flows: Sequence[tuple[Evidence, Sequence[_Seen]]]) -> tuple[State, str]:
    silent = sum(not seen for _, seen in flows)
    if silent:
        return "unknown", f"no certificate in its log of {silent} of {len(flows)} flows"
    every = sorted((one for _, seen in flows for one in seen), key=lambda one: one.time)
    stranger = next((one for one in every if not one.holder), None)
    if stranger is not None:
        return "broken", str(stranger)
    old, new = [one for one in every if not one.in_use], [one for one in every if one.in_use]
    if not new:
        return "broken", f"{old[-1]} in all {len(flows)} flows"
    if not old:
        return "broken" if new[0].last == 1 else "unknown", f"{new[0]} in all {len(flows)} flows"
    over = min(evidence.attempt.ended for evidence, seen in flows if any(one.in_use for one in seen))
    late = [
        one
        for evidence, seen in flows
        for one in seen
        # a flow may go on by a connection that was opened before it (Recorded.follow)
        if min(evidence.attempt.started, one.arrived) > over and not one.in_use
    ]
    begun = min(evidence.attempt.started for evidence, _ in flows)
    first, last = _when(new[0], begun), _when(old[-1], begun)
    told = f"{old[-1]} in {len(old)} flows, the last at {last}; {new[0]} in {len(new)}, the first at {first}"
    if late:
        return "broken", f"{told}; {len(late)} of the former began when one of the latter was over"
    return "held", told


def _when(one: _Seen, begun: int) -> str:
    moment = dt.datetime.fromtimestamp(one.time / 1e9, dt.UTC)
    return f"{moment:%H:%M:%S.%f}"[:-3] + f" ({(one.time - begun) / 1e9:.3f} s in)"


def _seen_by(hop: str, evidence: Evidence, passport: Passport) -> list[_Seen]:
    """Return the certificates in a hop's log of a flow, each once, where it was first seen."""
    first: dict[str, int] = {}
    there = passport.at(hop)
    arrived = min((sighting.time for sighting in there), default=0)
    for sighting in there:
        if fingerprint := sighting.facts.get("certificate"):
            first.setdefault(fingerprint, sighting.time)
    return [_Seen(one, time, arrived, *_generation(one, evidence)) for one, time in first.items()]


def _generation(fingerprint: str, evidence: Evidence) -> tuple[str, int, int]:
    for holder, every in evidence.issued.items():
        if fingerprint in every:
            return holder, every.index(fingerprint) + 1, len(every)
    return "", 0, 0
