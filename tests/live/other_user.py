"""An ordinary user beside root: who it is, and what it may run and read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER_USER = 1001 if os.geteuid() == 0 else os.geteuid()
"""An ordinary user's id; it need not be in the user database."""


def interpreter(folder: Path) -> str:
    """Return an interpreter that another user may run, with the packages that this one has; skips when none is."""
    candidates = [sys.executable]
    system = shutil.which("python3", path="/usr/bin")
    if system:
        made = folder / "venv"
        packages = [path for path in sys.path if path.endswith("site-packages")]
        subprocess.run((system, "-m", "venv", "--without-pip", made), check=False, capture_output=True)
        for place in made.glob("lib/python3*/site-packages"):
            (place / "packages.pth").write_text("\n".join(packages), encoding="utf-8")
        candidates.append(str(made / "bin/python"))
    for python in candidates:
        try:
            tried = subprocess.run(
                (python, "-c", "import pydantic, cryptography, yaml"),
                capture_output=True,
                check=False,
                **as_other(),
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    pytest.skip("no Python with the project's packages that another user may run")


def as_other() -> dict[str, Any]:
    """Return what makes `subprocess` run a command as that user; nothing where we are one already."""
    if os.geteuid() != 0:
        return {}
    return {"user": OTHER_USER, "group": OTHER_USER, "extra_groups": ()}


@contextmanager
def folder_for_others() -> Iterator[Path]:
    """Make a folder that other users can reach, as they cannot reach pytest's own; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="egresslab-test-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


def egresslab_as_other(folder: Path, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command of egresslab as that user, whose home and place for reports is a folder within this one."""
    out = folder / "out"
    out.mkdir()
    os.chown(out, OTHER_USER, os.getegid() if os.geteuid() else OTHER_USER)
    return subprocess.run(
        (interpreter(folder), "-m", "harness.cli", *arguments, "--out", str(out)),
        env=ENVIRONMENT | {"HOME": str(out), "NO_COLOR": "1"},
        cwd=out,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        **as_other(),
    )
