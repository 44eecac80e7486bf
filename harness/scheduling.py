"""How xdist deals scenarios out: all cases of a lab to one worker, so that the lab stands once.

`xdist_group` markers would say the same, but xdist 3.8 loses them under pytest 9.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# xdist ships no types
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ByLab(LoadGroupScheduling):  # type: ignore[misc] # as above
    """Deals cases out by lab, and all other tests as `--dist loadgroup` does."""

    def __init__(self, config: Any, log: Any, labs: Mapping[Path, str]) -> None:
        super().__init__(config, log)
        self._labs = labs
        """Scenario file, resolved, to what names its lab."""

    def _split_scope(self, nodeid: str) -> str:
        file = self.config.rootpath / nodeid.partition("::")[0]
        return self._labs.get(file.resolve()) or str(super()._split_scope(nodeid))
