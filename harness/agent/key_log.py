"""The secrets of TLS connections that a lab's programs log, read for whoever writes a capture (in the lab process)."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress

_LINE = re.compile(rb"[A-Z0-9_]+ [0-9a-f]{64} [0-9a-f]+\n", re.IGNORECASE)
"""A label, the connection's client random, a secret (draft-ietf-tls-keylogfile)."""


def lines_of(paths: Iterable[str]) -> Iterable[bytes]:
    """Return each line of these key logs once; both ends of a connection log the same.

    A pod's commands may put anything in the place of theirs: only a file is read, and of it only such lines.
    """
    found: dict[bytes, None] = {}
    for path in paths:
        with suppress(OSError), open(path, "rb", opener=_regular) as file:
            found |= dict.fromkeys(line for line in file if _LINE.fullmatch(line))
    return found


def _regular(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return fd
