"""What this machine remembers of a lab in containers: its plan, addresses and certificates; and who stands it up."""

from __future__ import annotations

import fcntl
import os
import pickle
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.agent.state import State


@dataclass(frozen=True)
class Kept:
    """A lab that is up: its state, the file that it was made from, and how long each phase took (seconds)."""

    state: State
    source: tuple[str, str]
    phases: tuple[tuple[str, float], ...]


def keep(name: str, kept: Kept) -> None:
    """Remember a lab that is up; it has private keys, so that only we may read it."""
    path = _path(name, "lab")
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        pickle.dump(kept, file)
    fresh.replace(path)


def recall(name: str) -> Kept | None:
    """Return what is known of a lab that is up; None of one that we did not stand up, or that is not whole."""
    try:
        kept = pickle.loads(_path(name, "lab").read_bytes())  # noqa: S301 - only we can have written it
    except (OSError, pickle.UnpicklingError, AttributeError, EOFError, ImportError):
        return None
    return kept if isinstance(kept, Kept) else None


def forget(name: str) -> None:
    """Remember a lab no more."""
    _path(name, "lab").unlink(missing_ok=True)


def lock(name: str) -> int | None:
    """Take the lock of a lab's name, which ends with this process; None when another process has it."""
    fd = os.open(_path(name, "lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def unlock(name: str, fd: int) -> None:
    """Give a lock back; nothing of it is left."""
    with suppress(OSError):
        _path(name, "lock").unlink()
    os.close(fd)


def folder() -> Path:
    """Return the folder of what is remembered, which is made where it is not there."""
    root = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - see tools._cache_file
    found = Path(root, "egresslab", "k3d")
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def _path(name: str, kind: str) -> Path:
    return folder() / f"{name}.{kind}"
