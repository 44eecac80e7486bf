"""Labs of 10 to 1,000 pods on 1 to 20 nodes with BIRD: time to stand up and to close, and memory. Draws out/scale.svg.

Memory is the sum of what each process of the lab has in its share (PSS, proc(5)), its packet rings among it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from measure import Measurement
from plot import Line, svg

from harness.drivers.netns.lab import stand_up
from harness.generated import Size, lab_text
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.source import parse

PODS = (10, 30, 100, 300, 1000)
OUT = Path("out/scale.svg")


def one(pods: int) -> tuple[float, float, float]:
    """Return seconds until a lab stands, MB of its processes, and seconds until it is gone."""
    text = lab_text(Size.of(max(1, pods // 50), pods, min(4, pods))).replace("NAME", "bench-scale")
    name = f"bench-{os.getpid()}"
    begun = time.monotonic()
    plan = make_plan(parse_lab(parse(text.encode(), "bench.yaml")))
    lab = stand_up(plan, name, ("bench.yaml", text), owned=True)
    up = time.monotonic() - begun
    size = memory(name)
    begun = time.monotonic()
    lab.close()
    return up, size, time.monotonic() - begun


def memory(lab: str) -> float:
    """Return the MB of all processes in the namespace of a lab's first process, whose command names the lab."""
    found: dict[str, list[Path]] = {}
    first = ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            space = str((process / "ns/pid").readlink())
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found.setdefault(space, []).append(process)
        if lab.encode() in command and space != str(Path("/proc/self/ns/pid").readlink()):
            first = space
    return sum(map(_pss, found.get(first, ()))) / 1024


def _pss(process: Path) -> int:
    try:
        rows = (process / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.startswith("Pss:")), 0)


def measure() -> list[Measurement]:
    """Measure each size, and draw them."""
    rows = [(pods, *one(pods)) for pods in PODS]
    OUT.parent.mkdir(exist_ok=True)
    lines = (
        Line("until it stands", tuple((row[0], row[1]) for row in rows), "s"),
        Line("until it is gone", tuple((row[0], row[3]) for row in rows), "s"),
        Line("memory of its processes", tuple((row[0], row[2]) for row in rows), "MB"),
    )
    OUT.write_text(svg(lines, "pods"), encoding="utf-8")
    for pods, up, size, closed in rows:
        print(f"{pods:5} pods: up {up:.2f} s, {size:.0f} MB, closed {closed:.2f} s")
    return [Measurement(f"{pods} pods up", (up,), target="linear, 1 GB") for pods, up, _, _ in rows]
