"""Each shipped lab stands up and holds many times in a row; a single flake is a failure (`-m prove`)."""

from __future__ import annotations

import shutil
import statistics
import time
from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from small_lab import own_name

from harness import shipped

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.prove]

RUNS = 50
SECONDS = 300.0
"""What one run may take on a machine that has much else to do."""


@pytest.mark.parametrize("lab", sorted(shipped.shipped_labs()))
def test_a_lab_holds_fifty_times_in_a_row(
    lab: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty cold starts, every scenario each time: all held. Prints the median and the longest run, in seconds."""
    took: list[float] = []
    for number in range(1, RUNS + 1):
        begun = time.monotonic()
        options = ("--name", own_name(f"again-{lab}"), "--out", str(tmp_path))
        found = egresslab("test", "--lab", lab, *options, seconds=SECONDS)
        took.append(time.monotonic() - begun)
        assert found.returncode == 0, f"run {number} of {RUNS}:\n{found.stdout}{found.stderr}"
        shutil.rmtree(tmp_path / lab)
    with capsys.disabled():
        print(f"\n{lab}: {RUNS} runs held, median {statistics.median(took):.1f} s, longest {max(took):.1f} s")  # noqa: T201 - the figure is what the proof is run for
