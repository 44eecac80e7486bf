"""2,500 flow checks: `RunningLab.probe` against `ip netns exec curl`, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from measure import Measurement
from peers import ENTRY, isolated

from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.programs.probe import Probe
from harness.source import parse

FLOWS, SOME, RUNS = 2500, 100, 3
"""Of the peer's flows only some are sent: it takes as long for each."""

LAB = """\
lab: bench-flows
networks: {nodes: {cidr: 172.19.0.0/16}}
cluster: {nodes: [node-1], pools: {default: {cidr: 10.53.0.0/16}}, services_cidr: 10.235.0.0/16}
namespaces: {bench: {workloads: {client: {runs: client}}}}
outside: {site: {kind: website, on: [nodes], tls: none}}
"""
SCRIPT = f"""
set -e
ip link set lo up
ip netns add client; ip netns add server
ip -n client link add eth0 type veth peer name eth0 netns server
ip -n client addr add 10.9.0.1/24 dev eth0; ip -n client link set eth0 up
ip -n server addr add 10.9.0.2/24 dev eth0; ip -n server link set eth0 up
cd /run
ip netns exec server {sys.executable} -m http.server --bind 10.9.0.2 80 >/dev/null 2>&1 &
until ip netns exec client curl -s -o /dev/null http://10.9.0.2/; do :; done
begun=$(date +%s%N)
for _ in $(seq {SOME}); do ip netns exec client curl -s -o /dev/null http://10.9.0.2/; done
echo $(($(date +%s%N) - begun))
kill $!
"""


def ours(lab: NamespaceLab) -> float:
    """Send all flows, each an HTTP request with its answer."""
    probes = [Probe(0, "bench/client", "http", "site", 80) for _ in range(FLOWS)]
    begun = time.monotonic()
    outcomes = lab.probe(probes)
    took = time.monotonic() - begun
    if any(outcome.status != "answered" for outcome in outcomes):
        sys.exit("bench: a flow was not answered")
    return took


def theirs() -> float:
    """Return how long all flows would take, by some of them."""
    ran = subprocess.run(
        (*isolated(), "sh", "-c", ENTRY + 'sh -c "$0"', SCRIPT), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        sys.exit(f"bench: the peer failed: {ran.stderr.strip()}")
    return int(ran.stdout.split()[-1]) / 1e9 * FLOWS / SOME


def measure() -> list[Measurement]:
    """Time both, turn by turn."""
    plan = make_plan(parse_lab(parse(LAB.encode(), "bench.yaml")))
    lab = stand_up(plan, f"bench-{os.getpid()}", ("bench.yaml", LAB), owned=True)
    mine, others = [], []
    for _ in range(RUNS):
        mine.append(ours(lab))
        others.append(theirs())
    lab.close()
    what = f"{FLOWS} HTTP requests, recorded on their way"
    return [Measurement(what, tuple(mine), f"`ip netns exec curl`, by {SOME} of them", tuple(others), "100x")]
