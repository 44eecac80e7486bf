"""`egresslab` as a user calls it: in a process of its own, with streams that the test holds."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import harness

_ROOT = str(Path(harness.__file__).parent.parent)
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
}
"""For processes of ours, wherever they start."""

COMMAND_SECONDS = 60
EGRESSLAB = (sys.executable, "-m", "harness.cli")
PYTEST = (
    *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
    *(() if entry_points(group="pytest11", name="egresslab") else ("-p", "harness.pytest_plugin")),
)
"""The plugin loads itself only where the project is installed."""


def egresslab(
    *arguments: str, given: str | None = None, seconds: float = COMMAND_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `given` on its standard input."""
    return subprocess.run(
        [*EGRESSLAB, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=ENVIRONMENT,
        check=False,
    )


def read_until(terminal: int, word: str) -> str:
    """Return what a terminal shows until a word has come, and the rest of its line."""
    shown = b""
    deadline = time.monotonic() + COMMAND_SECONDS
    while word.encode() not in shown or b"\n" not in shown.rpartition(word.encode())[2]:
        if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"no {word!r} in {shown!r}")
        shown += os.read(terminal, 4096)
    return shown.decode()
