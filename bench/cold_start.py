"""`egresslab test --lab bookinfo-egress` from nothing to every verdict, and what the command itself costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from measure import Measurement, in_turn, timed

RUNS = 5


def _run(*arguments: str) -> float:
    argv = (sys.executable, "-m", "harness.cli", *arguments)
    return timed(lambda: subprocess.run(argv, check=True, capture_output=True))


def measure() -> list[Measurement]:
    """Time the first lab and the help page."""
    with tempfile.TemporaryDirectory() as out:
        test = ("test", "--lab", "bookinfo-egress", "--name", f"bench-{os.getpid()}", "--out", out)
        whole, _ = in_turn(RUNS, lambda: _run(*test))
    shown, _ = in_turn(RUNS, lambda: _run("--help"))
    return [
        Measurement("bookinfo-egress, cold to all verdicts", whole, target="5 s"),
        Measurement("egresslab --help", shown, target="0.15 s"),
    ]
