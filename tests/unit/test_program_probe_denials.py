"""What the probe engine makes of firewalls: RST, ICMP and silence, in a namespace of the test's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.programs.probe import Engine, Probe, Resolver

RULES = """
table ip denials {
  chain arrive {
    type filter hook input priority 0;
    tcp dport 80 reject with icmp type admin-prohibited
    tcp dport 81 reject
    tcp dport 82 reject with tcp reset
    tcp dport 83 meta mark 1337 reject with icmp type host-prohibited
    tcp dport 83 drop
    udp dport 84 reject with icmp type admin-prohibited
    udp dport 85 drop
  }
}
"""
PREPARE = f"ip link set lo up && sysctl -qw net.ipv4.icmp_ratemask=0 && nft '{RULES}' && exec \"$@\""
FROM_LOOPBACK = "from 127.0.0.1"


@pytest.mark.live
def test_reset_icmp_and_silence_are_told_apart() -> None:
    """A RST is `refused`; ICMP is `unreachable` with type, code and sender; a drop is `timeout`.

    The mark is on the first packet already, and a node without a route says so itself.
    """
    privileged = os.geteuid() == 0
    argv = ["unshare", "-n" if privileged else "-rn", "sh", "-c", PREPARE, "sh", sys.executable, __file__]
    root = str(Path(__file__).parents[2])
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        argv, env={"PATH": path, "PYTHONPATH": root}, stdout=subprocess.PIPE, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [
        ["unreachable", "connect", f"ICMP type 3 code 13 {FROM_LOOPBACK}"],
        ["unreachable", "connect", f"ICMP type 3 code 3 {FROM_LOOPBACK}"],
        ["refused", "connect", "ECONNREFUSED: Connection refused"],
        ["timeout", "connect", ""],
        ["unreachable", "connect", f"ICMP type 3 code 10 {FROM_LOOPBACK}"],
        ["unreachable", "request", f"ICMP type 3 code 13 {FROM_LOOPBACK}"],
        ["timeout", "request", ""],
        ["refused", "request", f"ICMP type 3 code 3 {FROM_LOOPBACK}"],
        ["unreachable", "connect", "ENETUNREACH, said by this node itself"],
    ]


def _inside() -> None:
    """Run the probes; this file is its own program inside the namespace."""
    here = "127.0.0.1"
    probes = [
        *(Probe(port, "here", "tcp", here, port, timeout=0.4) for port in range(80, 84)),
        Probe(0, "here", "tcp", here, 83, mark=1337, timeout=10),
        *(Probe(port, "here", "udp", here, port, timeout=0.4) for port in (84, 85, 86)),
        Probe(0, "here", "tcp", "198.51.100.1", 80),
    ]
    engine = Engine(lambda _, *kind: socket.socket(*kind), lambda _: Resolver(None))
    seen = [(outcome.status, outcome.stage, outcome.detail) for outcome in engine.run(probes)]
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    _inside()
