"""What a measurement comes to, and how two sides are timed turn by turn."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Measurement:
    """Seconds of each run, ours and the peer's; `target` is in words, as docs/performance.md has it."""

    what: str
    ours: tuple[float, ...]
    peer: str = ""
    theirs: tuple[float, ...] = ()
    target: str = "-"

    @property
    def ratio(self) -> float | None:
        """How many times longer the peer takes, by the medians; None without a peer."""
        if not self.theirs:
            return None
        return statistics.median(self.theirs) / statistics.median(self.ours)


def in_turn(
    runs: int, ours: Callable[[], float], theirs: Callable[[], float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Call both sides in turn, as often as told; each returns the seconds that count."""
    mine, others = [], []
    for _ in range(runs):
        mine.append(ours())
        if theirs is not None:
            others.append(theirs())
    return tuple(mine), tuple(others)


def timed(function: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    begun = time.monotonic()
    function()
    return time.monotonic() - begun
