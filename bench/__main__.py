"""The measurements of speed: `make bench`, or `python bench [NAME ...]` for some of them.

Each module here but this one measures one thing against a peer, in the same run and turn by turn, so that what else the
machine does falls on both. Prints a table, and writes every single time into out/bench.json.
"""

from __future__ import annotations

import importlib
import json
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
OUT = Path("out/bench.json")
_NO_BENCHES = {"__main__", "measure", "mininet_lab", "peers", "plot"}


def main(names: Sequence[str]) -> int:
    """Run the measurements that are named, or all; returns 2 for an unknown name."""
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in _NO_BENCHES)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"bench: unknown {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    found: list[Measurement] = []
    for name in names or known:
        found += importlib.import_module(name).measure()
    show(found)
    OUT.parent.mkdir(exist_ok=True)
    machine = {"kernel": platform.release(), "python": platform.python_version()}
    results = {"machine": machine, "measurements": [asdict(one) for one in found]}
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"every time: {OUT}")
    return 0


def show(found: Sequence[Measurement]) -> None:
    """Print a table of medians, each with its shortest and longest time, and what the peer takes of it."""
    from rich.console import Console  # noqa: PLC0415 - only to print
    from rich.table import Table  # noqa: PLC0415

    table = Table("what", "ours (s)", "peer", "peer (s)", "ratio", "target")
    for one in found:
        ratio = f"{one.ratio:.1f}x" if one.ratio is not None else "-"
        table.add_row(one.what, spread(one.ours), one.peer or "-", spread(one.theirs), ratio, one.target)
    Console(width=140 if not sys.stdout.isatty() else None).print(table)


def spread(seconds: Sequence[float]) -> str:
    """Return the median, and the extremes beside it."""
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} runs)"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main(sys.argv[1:]))
