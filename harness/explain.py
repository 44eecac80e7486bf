"""A passport and a failure in words, the same in every report: up to the hop that differs."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence import Sighting
from harness.programs.fivetuple import FiveTuple
from harness.run import Result

_WORTH = (
    "identity",
    "verdict",
    "by",
    "rule",
    "reason",
    "translated",
    "request",
    "upstream",
    "version",
    "status",
    "failure",
    "flags",
    "icmp",
)


def failure_lines(result: Result) -> Iterator[str]:
    """Yield what was expected and seen at which hop, then the way the flow took."""
    for finding in result.verdict.reasons:
        yield f"{finding.at}: {finding.check}: expected {finding.expected}"
        yield f"    seen: {finding.seen}"
    yield f"in {result.item.path}:{result.item.line}"
    yield from passport_lines(result)


def passport_lines(result: Result) -> Iterator[str]:
    """Yield one line for each sighting, in order of time, with milliseconds since the attempt began."""
    if result.passport is None or result.evidence is None:
        return
    yield "passport:"
    begun = result.evidence.attempt.started
    width = max((len(sighting.at) for sighting in result.passport.sightings), default=0)
    for sighting in result.passport.sightings:
        yield f"  {(sighting.time - begun) / 1e6:8.2f} ms  {sighting.at:<{width}}  {describe(sighting)}"
    for stray in result.passport.strays:
        yield f"  unaccounted for: {stray.at}  {describe(stray)}"
    for reason in result.passport.ambiguous:
        yield f"  cannot be told apart: {reason}"


def describe(sighting: Sighting) -> str:
    """Say what one witness saw, in one line."""
    words = [f"{sighting.witness:<9} {sighting.event:<10}"]
    if sighting.flow is not None:
        words.append(arrow(sighting.flow))
    if sighting.onward is not None and sighting.onward != sighting.flow:
        words.append("=> " + arrow(sighting.onward))
    words += [
        f"{key}={sighting.facts[key]}" for key in _WORTH if sighting.facts.get(key) and key != "translated"
    ]
    if sighting.witness == "tap":
        words.append(
            ("out of " if sighting.facts.get("outgoing") == "true" else "into ") + sighting.facts["tap"]
        )
    return " ".join(words)


def arrow(flow: FiveTuple) -> str:
    """Write a 5-tuple as `source > destination`; a side that its witness does not record is left out."""
    source = f"{flow.src}:{flow.sport}" if flow.sport else flow.src
    target = f" > {flow.dst}:{flow.dport}" if flow.dst else ""
    return source + target
