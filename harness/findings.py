"""What was found out about a machine: one thing that a lab may need, and how the machine stands to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CLUSTER = "k3d cluster"
"""Who needs what only a cluster of k3d does; simulated nodes need the Docker Engine alone."""


@dataclass(frozen=True)
class Finding:
    """One thing that a lab may need, and how this machine stands to it.

    `state`: ok; limited (works with the reservation that `detail` tells); missing. `mend` is one command or
    one sentence, None where nothing can be done here. `needed_by` names drivers and features.
    """

    name: str
    state: Literal["ok", "limited", "missing"]
    detail: str
    mend: str | None = None
    needed_by: tuple[str, ...] = ()
