"""How long four nodes and a peer take until every kernel has every route.

Each run stands a lab up from nothing. Time counts from before the first BIRD is started until the lab's own wait has
found every block in the kernel of every node; the start of the recordings lies within it. Compared with the same
under the timers that BIRD has by itself (connect delay 5 s), of which fewer runs are made.
"""

from __future__ import annotations

import os

from measure import Measurement, in_turn

from harness import bird
from harness.drivers.netns.lab import stand_up
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.source import parse

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
TIMERS = (
    "  connect delay time 1;\n",
    "  connect retry time 3;\n",
    "  error wait time 5,60;\n",
)
WITHIN = ("taps", "start programs", "programs ready")
"""The phases of standing up from the first BIRD on."""


def _converge() -> float:
    """Stand the lab up and return the seconds from the first BIRD to the last route."""
    plan = make_plan(parse_lab(parse(LAB.encode(), "lab.yaml")))
    lab = stand_up(plan, f"bgp-bench-{os.getpid()}", ("lab.yaml", LAB), owned=True)
    try:
        every = {str(block) for blocks in lab.bindings.blocks.values() for block in blocks}
        for node in lab.plan.nodes:
            if bird.runs_on(node, lab.plan):
                missing = every - {str(route.destination) for route in lab.routing(node.name).kernel}
                assert not missing, f"{node.name} lacks {missing}"
        return sum(seconds for phase, seconds in lab.phases if phase in WITHIN)
    finally:
        lab.close()


def ours() -> float:
    """Converge with the timers that Calico gives BIRD, as labs have them."""
    return _converge()


def theirs() -> float:
    """Converge with the timers that BIRD has by itself."""
    template = bird._NODE  # noqa: SLF001 - the comparison is with what the harness does not do
    for timer in TIMERS:
        assert timer in bird._NODE  # noqa: SLF001 - as above
        bird._NODE = bird._NODE.replace(timer, "")  # noqa: SLF001 - as above
    try:
        return _converge()
    finally:
        bird._NODE = template  # noqa: SLF001 - as above


def measure() -> list[Measurement]:
    """Time both; the peer's runs are fewer, since each takes five seconds."""
    first, others = in_turn(COMPARED, ours, theirs)
    rest, _ = in_turn(RUNS - COMPARED, ours)
    what = "BGP, 4 nodes and a peer, until every kernel has every route"
    return [Measurement(what, first + rest, "BIRD's own timers", others, target="1.2 s")]
