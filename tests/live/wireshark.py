"""What a stranger sees in a capture: tshark, run over a file of ours."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from harness import tools
from harness.errors import MissingCapability

if TYPE_CHECKING:
    from pathlib import Path


def tshark(file: Path, *arguments: str) -> list[str]:
    """Run tshark over a file and return its lines; skips where it is not installed."""
    try:
        program = tools.find("tshark")
    except MissingCapability as error:
        pytest.skip(f"{error} (or .ci/setup for-tests)")
    done = subprocess.run(
        [program, "-r", file, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=tools.environment() | {"HOME": str(file.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def fields(file: Path, where: str, names: tuple[str, ...], *options: str) -> list[tuple[str, ...]]:
    """Return these fields of each frame that a display filter finds; several values of one are joined by commas."""
    wanted = [word for name in names for word in ("-e", name)]
    lines = tshark(file, "-n", *options, "-Y", where, "-T", "fields", "-E", "separator=|", *wanted)
    return [tuple(line.split("|")) for line in lines]
