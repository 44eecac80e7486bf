"""What the recorder says of itself, without a lab."""

from __future__ import annotations

import re

import pytest

from harness.agent.recorder import Recorder, clock_offset


def test_the_offset_of_the_clocks_is_the_same_at_each_reading() -> None:
    """Two readings agree to within a fraction of what counts as a step."""
    assert abs(clock_offset() - clock_offset()) < 200_000


def test_nothing_is_lost_where_nothing_happened() -> None:
    """A mark just taken has lost nothing since."""
    recorder = Recorder()
    assert recorder.lost(recorder.mark()) == {}


@pytest.mark.parametrize("step", [250_000_000, -3_000_000])
def test_a_step_of_the_clock_is_told(step: int) -> None:
    """A clock that was set since the mark, either way, is named with how far it went."""
    recorder = Recorder()
    mark = recorder.mark()
    mark["clock"]["offset"] -= step
    lost = recorder.lost(mark)
    assert list(lost) == ["clock"]
    told = re.search(r"set by ([+-][0-9.]+) ms", lost["clock"])
    assert told is not None
    assert float(told[1]) == pytest.approx(step / 1e6, abs=0.2)
