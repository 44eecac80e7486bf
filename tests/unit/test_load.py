"""A load: one verdict on many flows, and on what changed while they ran."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from judged_flows import RED, joined, told, without

from harness.load import Changed, judge_load

if TYPE_CHECKING:
    from harness.evidence import Evidence
    from harness.load import LoadResult
    from harness.passport import Passport

SECOND = 1_000_000_000


def flows(count: int, *lost: int) -> list[tuple[Evidence, Passport]]:
    """Return so many flows that were let out, one each second; of some, tinyproxy saw nothing."""
    found = []
    for number in range(count):
        evidence = without(told(RED), at="tinyproxy") if number in lost else told(RED)
        begun = evidence.attempt.started + number * SECOND
        late = replace(evidence, attempt=replace(evidence.attempt, started=begun))
        found.append((late, joined(evidence)))
    return found


def judged(found: list[tuple[Evidence, Passport]], changed: Changed | None = None) -> LoadResult:
    """Judge flows together."""
    return judge_load(found[0][0].attempt.item, found, changed)


def test_a_load_holds_when_every_flow_does() -> None:
    """The findings are those of the first flow, and how many held."""
    result = judged(flows(4))
    assert result.verdict.state == "held"
    assert result.states == {"held": 4}
    assert result.verdict.findings[-1].seen == "4 held"
    assert "path" in {finding.check for finding in result.verdict.findings}


def test_one_flow_that_is_lost_breaks_a_load() -> None:
    """The flow that did not hold stands for the load, and its finding says which it was and when."""
    found = flows(4, 2)
    result = judged(found)
    assert result.verdict.state == "broken"
    assert result.states == {"held": 3, "broken": 1}
    assert result.evidence is found[2][0]
    path, *_, summary = result.verdict.reasons
    assert (path.check, path.at) == ("path", "tinyproxy")
    assert path.seen.endswith("(flow 3 of 4, 2.00 s in)")
    assert summary.seen == "3 held, 1 broken"


def test_steps_count_only_between_flows() -> None:
    """What changed proves something when flows began before it and after it was done."""
    found = flows(4)
    begun = found[0][0].attempt.started
    amid = Changed(begun + SECOND // 2, begun + 2 * SECOND + 1)
    result = judged(found, amid)
    assert result.verdict.state == "held"
    assert result.verdict.findings[-1].seen == "1 before, 2 in the 1.50 s of the steps, 1 after"
    late = judged(found, Changed(begun + SECOND, begun + 9 * SECOND))
    assert late.verdict.state == "unknown"
    assert late.verdict.reasons[0].check == "during"
