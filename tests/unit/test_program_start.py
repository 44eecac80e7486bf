"""How the programs are started: as a module, and as a file that was copied away from the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from program_process import PROGRAMS

if TYPE_CHECKING:
    from pathlib import Path

SENTENCE = b"one argument is expected: the configuration, a JSON file\n"


@pytest.mark.parametrize("name", ["egress_proxy", "website"])
@pytest.mark.parametrize("options", [["-P"], ["-S", "-E"]])
def test_a_copy_runs_with_the_standard_library_alone(tmp_path: Path, name: str, options: list[str]) -> None:
    """A copy of the folder, under any name and without the rest of the project, is enough."""
    folder = tmp_path / "anywhere"
    shutil.copytree(PROGRAMS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    argv = [sys.executable, *options, str(folder / f"{name}.py")]
    done = subprocess.run(argv, cwd=tmp_path, env={}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, SENTENCE)


@pytest.mark.parametrize("name", ["egress_proxy", "website"])
def test_a_module_runs_too(name: str) -> None:
    """`python3 -m harness.programs.NAME` is the same program."""
    argv = [sys.executable, "-m", f"harness.programs.{name}"]
    done = subprocess.run(argv, cwd=PROGRAMS.parent.parent, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, SENTENCE)
