"""A hundred pods on five nodes, up and the whole cycle: this project against Mininet 2.3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from measure import Measurement
from peers import ENTRY, isolated, module_path, path_with
from stand_up import NODES, PODS, lab_text

from harness.drivers.netns.lab import stand_up
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.source import parse

RUNS = 3


def ours() -> tuple[float, float]:
    """Return seconds until the lab stands, and until it is down again."""
    text = lab_text()
    begun = time.monotonic()
    plan = make_plan(parse_lab(parse(text.encode(), "bench.yaml")))
    lab = stand_up(plan, f"bench-{os.getpid()}", ("bench.yaml", text), owned=True)
    up = time.monotonic() - begun
    lab.close()
    return up, time.monotonic() - begun


def theirs(path: str) -> tuple[float, float]:
    """Return the same of Mininet; importing it does not count."""
    script = Path(__file__).with_name("mininet_lab.py")
    environment = os.environ | {"PATH": path, "PYTHONPATH": module_path("mininet")}
    command = f"{ENTRY} /usr/bin/python3 {script} {NODES} {PODS}"
    ran = subprocess.run(
        (*isolated(), "sh", "-c", command), env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        sys.exit(f"bench: Mininet failed: {ran.stderr.strip()[-2000:]}")
    up, whole = map(float, ran.stdout.split()[-2:])
    return up, whole


def measure() -> list[Measurement]:
    """Time both, turn by turn; nothing where the package cannot be fetched."""
    path = path_with("mininet", "net-tools")
    if path is None:
        print("bench: mininet is left out: apt-get cannot download it", file=sys.stderr)
        return []
    mine, others = [], []
    for _ in range(RUNS):
        mine.append(ours())
        others.append(theirs(path))
    return [
        Measurement(
            f"{PODS} pods on {NODES} nodes, {what}",
            tuple(one[place] for one in mine),
            "Mininet 2.3",
            tuple(one[place] for one in others),
            target,
        )
        for place, what, target in ((0, "up", "20x"), (1, "up and down again", "25x"))
    ]
