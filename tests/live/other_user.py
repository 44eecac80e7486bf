"""An ordinary user beside root: who it is, and what it may run and read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
def shown_to_others(folder: Path) -> Iterator[None]:
    """Let other users reach a folder of pytest's, which are all private."""
    private = [
        path for path in (folder, *folder.parents) if path.is_dir() and not path.stat().st_mode & 0o001
    ]
    modes = {path: path.stat().st_mode for path in private}
    for path, mode in modes.items():
        path.chmod(mode | 0o011)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
