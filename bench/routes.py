"""How long a node's route controller takes to find that nothing changed, and to route one pod more.

In a network namespace of its own, in which 500 pods are routed already: the controller's own reading of the kernel, its
difference and its batch. The peer is a script that reads and writes the same by iproute2, a command at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from measure import Measurement, in_turn, timed

from harness import netlink
from harness.programs import route_policy

PODS, RUNS = 500, 20
STATE = {
    "mode": "regular",
    "direct": ["10.124.0.0/16", "172.19.0.0/16"],
    "primary": {"table": 1, "via": "10.1.30.242", "dev": "shim1"},
}
MAC = "02:00:00:00:00:0"
_READ = (("ip", "link"), ("ip", "rule"), ("ip", "route", "show", "table", "1"))


def _state(pods: int) -> route_policy.State:
    workloads = [{"name": str(n), "primary": f"10.124.{n // 250}.{n % 250 + 1}"} for n in range(pods)]
    return route_policy.state_of(STATE | {"workloads": workloads})


def _reconcile(route: netlink.Socket, state: route_policy.State) -> int:
    """Do what the controller does at each look, and return how many requests it took."""
    links = {link.name: link.index for link in route.links() if link.up}
    change = route_policy.change_to(state, links, route.rules(), route.routes(), [1])
    for batch in change.batches:
        route.send(batch)
    return sum(map(len, change.batches))


def _ip(*commands: tuple[str, ...]) -> None:
    for argv in commands:
        subprocess.run(argv, check=True, capture_output=True)


def inside() -> None:
    """Measure in the namespace that this process is in, and print the times."""
    before, after = _state(PODS), _state(PODS + 1)
    words = ("from", f"10.124.{PODS // 250}.{PODS % 250 + 1}", "lookup", "1", "priority", "32257")
    with netlink.Socket() as route:
        route.send(
            [
                netlink.veth("card", 2, MAC + "2", "far", 3, MAC + "3"),
                netlink.link_set(2, up=True),
                netlink.link_set(3, up=True),
                netlink.macvlan("shim1", 4, MAC + "4", 2),
                netlink.address(4, "10.1.30.244/24"),
                netlink.link_set(4, up=True),
            ]
        )
        _reconcile(route, before)

        def one_more() -> float:
            seconds = timed(lambda: _reconcile(route, after))
            assert _reconcile(route, before) == 1
            return seconds

        def one_more_by_commands() -> float:
            seconds = timed(lambda: _ip(*_READ, ("ip", "rule", "add", *words)))
            _ip(("ip", "rule", "del", *words))
            return seconds

        assert _reconcile(route, before) == 0
        nothing = in_turn(
            RUNS, lambda: timed(lambda: _reconcile(route, before)), lambda: timed(lambda: _ip(*_READ))
        )
        print(json.dumps([nothing, in_turn(RUNS, one_more, one_more_by_commands)]))


def measure() -> list[Measurement]:
    """Time both in a namespace of their own."""
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    done = subprocess.run(
        ("unshare", *user, "--net", sys.executable, __file__), check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    what = ("route controller, 500 pods, nothing to do", "route controller, 500 pods, one more")
    return [
        Measurement(name, tuple(ours), "ip, a command at a time", tuple(theirs))
        for name, (ours, theirs) in zip(what, found, strict=True)
    ]


if __name__ == "__main__":
    inside()
