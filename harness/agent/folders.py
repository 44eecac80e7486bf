"""Where an agent writes, and which folders of its surroundings stay to be seen."""

from __future__ import annotations

import os

PRIVATE = "/run/egresslab"
"""Where everything that the lab writes lies, in memory, inside the sandbox or the container."""


def outermost(paths: tuple[str, ...]) -> list[str]:
    """Return the real paths among these that lie in none of the others."""
    chosen: list[str] = []
    for path in sorted({os.path.realpath(path) for path in paths}):
        if not any(path == outer or path.startswith(outer + "/") for outer in chosen):
            chosen.append(path)
    return chosen
