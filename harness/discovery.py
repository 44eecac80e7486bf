"""Which YAML files are scenario files, told cheaply: this runs in every project that pytest runs in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Asked = Literal["file", "folder", "nothing"]
"""What the user named: the file itself, a folder above it, or nothing at all (a plain `pytest`)."""

_SCENARIOS = re.compile(rb"^(?:\xef\xbb\xbf)?[\"']?scenarios[\"']?\s*:", re.MULTILINE)
_LAB = re.compile(rb"^(?:\xef\xbb\xbf)?[\"']?lab[\"']?\s*:", re.MULTILINE)
_LARGEST = 16 << 20
"""Bytes; a larger file is read, and refused for its size, only where the user named it."""


def is_scenarios(path: Path, asked: Asked) -> bool:
    """Tell a scenario file from other YAML, at the cost of reading it.

    A file that the user named may say `scenarios` anywhere; the loader tells more. Below a folder that was
    named, `scenarios` must stand at the file's top; where nothing was named, `lab` beside it too, since
    other tools have files of scenarios.
    """
    if path.suffix != ".yaml":
        return False
    try:
        if asked == "file":
            return b"scenarios" in path.read_bytes().replace(b"\0", b"")
        content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return False
    return bool(_SCENARIOS.search(content) and (asked == "folder" or _LAB.search(content)))


def ahead(starts: Sequence[Path], asked: Asked, skipped: Sequence[str]) -> Iterator[Path]:
    """Yield the scenario files among and below `starts`, outside folders that match a skipped pattern."""
    for start in starts:
        if start.is_file():
            if is_scenarios(start, "file"):
                yield start
            continue
        for folder, below, files in os.walk(start):
            below[:] = [name for name in below if not any(Path(name).match(pattern) for pattern in skipped)]
            found = (Path(folder, name) for name in sorted(files))
            yield from (path for path in found if is_scenarios(path, asked))
