"""How long four nodes and a peer take until every kernel has every route: `python bench/bgp.py [RUNS]`.

Each run stands a lab up from nothing. Time counts from before the first BIRD is started until the lab's own wait has
found every block in the kernel of every node; the start of the recordings lies within it. Compared with the same
under the timers that BIRD has by itself (connect delay 5 s), of which fewer runs are made.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from harness import bird
from harness.drivers.netns.lab import stand_up
from harness.lab import load_lab
from harness.plan import make_plan

RUNS, COMPARED = 20, 5
LAB = """\
lab: bgp-bench
networks: {nodes: {cidr: 172.19.0.0/16}}
cluster:
  nodes: [server-0, agent-0, agent-1, agent-2]
  pools: {default: {cidr: 10.53.0.0/16}}
  services_cidr: 10.235.0.0/16
  bgp: {asn: 64512, peers: {proxy: {node: proxy}}}
outside:
  proxy: {kind: router, on: [nodes]}
"""
OWN_TIMERS = (
    "  connect delay time 1;\n",
    "  connect retry time 3;\n",
    "  error wait time 5,60;\n",
)
WITHIN = ("taps", "start programs", "programs ready")
"""The phases of standing up from the first BIRD on."""


def converge(lab_file: Path) -> float:
    """Stand the lab up and return the seconds from the first BIRD to the last route."""
    text = lab_file.read_text(encoding="utf-8")
    lab = stand_up(
        make_plan(load_lab(lab_file)), f"bgp-bench-{os.getpid()}", (str(lab_file), text), owned=True
    )
    try:
        every = {str(block) for blocks in lab.bindings.blocks.values() for block in blocks}
        for node in lab.plan.nodes:
            if bird.runs_on(node, lab.plan):
                missing = every - {str(route.destination) for route in lab.routing(node.name).kernel}
                assert not missing, f"{node.name} lacks {missing}"
        return sum(seconds for phase, seconds in lab.phases if phase in WITHIN)
    finally:
        lab.close()


def main() -> None:
    """Print a line for each way, as a table of Markdown."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as folder:
        lab_file = Path(folder, "lab.yaml")
        lab_file.write_text(LAB, encoding="utf-8")
        ways = {"Calico's timers, as labs have them": [converge(lab_file) for _ in range(runs)]}
        template = bird._NODE  # noqa: SLF001 - the comparison is with what the harness does not do
        for timer in OWN_TIMERS:
            assert timer in bird._NODE  # noqa: SLF001 - as above
            bird._NODE = bird._NODE.replace(timer, "")  # noqa: SLF001 - as above
        ways["BIRD's own timers"] = [converge(lab_file) for _ in range(min(runs, COMPARED))]
        bird._NODE = template  # noqa: SLF001 - as above
    print("| timers | runs | median | fastest | slowest |\n|---|---|---|---|---|")
    for way, seconds in ways.items():
        middle = statistics.median(seconds)
        print(f"| {way} | {len(seconds)} | {middle:.2f} s | {min(seconds):.2f} s | {max(seconds):.2f} s |")


if __name__ == "__main__":
    main()
