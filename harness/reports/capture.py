"""capture.pcapng: every packet that every tap saw during the run, one interface per tap, in order of time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.pcapng import TapInfo, write_pcapng
from harness.programs.tap import Frame, frames
from harness.report import Summary
from harness.running import Mark, RunningLab


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:
    """Write the file; each scenario's name is a comment on the first packet of its attempt."""
    if lab is None:
        return
    raw = lab.collect(Mark(0, {}), ("frames",))
    names = sorted({name for taps in raw.interfaces.values() for name in taps.values()})
    numbers = {name: number for number, name in enumerate(names)}
    comments = sorted(
        (result.evidence.attempt.started, f"{result.item.id}: {result.verdict.state}")
        for result in summary.results
        if result.evidence is not None
    )
    found = sorted(
        (
            (frame, raw.interfaces[node].get(frame.ifindex, node))
            for node, blocks in raw.frames.items()
            for block in blocks
            for frame in frames(block)
        ),
        key=lambda pair: pair[0].time,
    )
    infos = [TapInfo(name, f"all frames at {name}, as its node saw them") for name in names]
    with (folder / "capture.pcapng").open("wb") as file:
        write_pcapng(file, infos, _records(found, numbers, comments))


def _records(
    found: list[tuple[Frame, str]], numbers: dict[str, int], comments: list[tuple[int, str]]
) -> Iterator[tuple[int, Frame, str | None]]:
    waiting = list(reversed(comments))
    for frame, name in found:
        comment = None
        while waiting and waiting[-1][0] <= frame.time:
            comment = waiting.pop()[1]
        yield numbers.get(name, 0), frame, comment
