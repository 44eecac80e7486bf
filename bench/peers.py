"""Peers from Debian's packages: unpacked into .tools/bench, never installed, so that nothing of them is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".tools" / "bench"
_PLACES = ("usr/bin", "usr/sbin", "bin", "sbin")


def path_with(*packages: str) -> str | None:
    """Return a PATH on which these packages' programs are; None where they cannot be fetched."""
    for package in packages:
        if not (FOLDER / package).is_dir() and not _fetch(package):
            return None
    places = [str(FOLDER / package / place) for package in packages for place in _PLACES]
    return ":".join([*places, os.environ["PATH"], "/usr/sbin", "/sbin"])


def module_path(package: str) -> str:
    """Return where a package's Python modules are."""
    return str(FOLDER / package / "usr/lib/python3/dist-packages")


def isolated() -> tuple[str, ...]:
    """Return the beginning of a command that runs in network and mount namespaces of its own, sysctls read-only."""
    own = ("unshare", "--net", "--mount", "--pid", "--fork")
    return (*own, *(() if os.geteuid() == 0 else ("--map-root-user",)))


ENTRY = (
    "mount -t tmpfs none /run && mount -t proc none /proc && mount -o bind,ro /proc/sys /proc/sys && exec "
)
"""For `sh -c` there: `ip netns` writes into /run, and no peer may change the machine's settings."""


def _fetch(package: str) -> bool:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        fetched = subprocess.run(
            ("apt-get", "-q", "download", package), cwd=work, capture_output=True, check=False
        )
        found = list(Path(work).glob("*.deb"))
        if fetched.returncode or not found:
            return False
        fresh = FOLDER / f"{package}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        unpacked = subprocess.run(("dpkg-deb", "-x", found[0], fresh), capture_output=True, check=False)
        if unpacked.returncode:
            return False
        fresh.rename(FOLDER / package)
        return True
