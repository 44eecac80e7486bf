"""A hundred pods on five nodes, from nothing to up: this project against a script of one `ip` for each step."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from measure import Measurement, in_turn

from harness.drivers.netns.lab import stand_up
from harness.lab import parse_lab
from harness.plan import make_plan
from harness.source import parse

NODES, PODS, RUNS = 5, 100, 5


def lab_text() -> str:
    """Return a lab of pods without sidecars, spread over the nodes."""
    nodes = ", ".join(f"node-{number}" for number in range(NODES))
    pods = "\n".join(
        f"      pod-{number}: {{runs: client, node: node-{number % NODES}}}" for number in range(PODS)
    )
    return f"""
lab: bench
networks: {{nodes: {{cidr: 172.19.0.0/16}}}}
cluster:
  nodes: [{nodes}]
  pools: {{default: {{cidr: 10.53.0.0/16}}}}
  services_cidr: 10.235.0.0/16
namespaces:
  bench:
    workloads:
{pods}
"""


def ours() -> float:
    """Stand the lab up, with its packet taps; taking it down does not count."""
    text = lab_text()
    begun = time.monotonic()
    plan = make_plan(parse_lab(parse(text.encode(), "bench.yaml")))
    lab = stand_up(plan, f"bench-{os.getpid()}", ("bench.yaml", text), owned=True)
    took = time.monotonic() - begun
    lab.close()
    return took


def script() -> str:
    """Return the same network as a shell script: a bridge, a namespace for each node and pod, one `ip` a step."""
    lines = ["set -e", "mount -t tmpfs none /run", "ip link add nodes type bridge", "ip link set nodes up"]
    for node in range(NODES):
        inside = f"ip -n node-{node}"
        lines += [
            f"ip netns add node-{node}",
            f"ip link add n{node} type veth peer name eth0 netns node-{node}",
            f"ip link set n{node} master nodes up",
            f"{inside} addr add 172.19.0.{node + 2}/16 dev eth0",
            f"{inside} link set eth0 up",
            f"{inside} link set lo up",
            f"ip netns exec node-{node} sysctl -qw net.ipv4.ip_forward=1",
        ]
        others = [other for other in range(NODES) if other != node]
        lines += [f"{inside} route add 10.53.{other}.0/24 via 172.19.0.{other + 2}" for other in others]
    for pod in range(PODS):
        node, number = pod % NODES, pod // NODES + 2
        address, inside = f"10.53.{node}.{number}", f"ip -n pod-{pod}"
        lines += [
            f"ip netns add pod-{pod}",
            f"ip -n node-{node} link add cali{pod} type veth peer name eth0 netns pod-{pod}",
            f"ip -n node-{node} link set cali{pod} up",
            f"ip -n node-{node} route add {address}/32 dev cali{pod}",
            f"{inside} addr add {address}/32 dev eth0",
            f"{inside} link set eth0 up",
            f"{inside} link set lo up",
            f"{inside} route add 169.254.1.1 dev eth0",
            f"{inside} route add default via 169.254.1.1 dev eth0",
        ]
    return "\n".join(lines)


def theirs() -> float:
    """Run the script in network and mount namespaces of its own; the machine's are not touched."""
    own = ("unshare", "--net", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    text = script()
    begun = time.monotonic()
    ran = subprocess.run((*own, "sh", "-s"), input=text, capture_output=True, text=True, check=False)
    took = time.monotonic() - begun
    if ran.returncode:
        sys.exit(f"bench: the script failed: {ran.stderr.strip()}")
    return took


def measure() -> list[Measurement]:
    """Time both, turn by turn."""
    mine, others = in_turn(RUNS, ours, theirs)
    what = f"{PODS} pods on {NODES} nodes up, recorded at every interface"
    return [Measurement(what, mine, "one `ip` for each step, nothing recorded", others, "15x")]
