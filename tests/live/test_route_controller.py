"""The route controller against a real kernel: macvlan shims, policy rules and tables, flaps and restarts."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from own_namespace import alone

from harness import netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

PACKAGE = Path(netlink.__file__).parents[1]
PATIENCE = 10.0
MAC = "02:00:00:00:00:{:02x}"
CALI, ENS224, ENS256, SHIM1, SHIM2 = 2, 4, 6, 8, 9
POOLS = {"primary": "10.124.18.", "secondary": "10.1.10."}
TABLES = {
    "primary": {"table": 1, "via": "10.1.30.242", "dev": "shim1"},
    "secondary": {"table": 2, "via": "10.1.10.160", "dev": "shim2"},
}
DIRECT = ["172.21.107.192/26", "172.21.66.0/26", "10.124.18.192/26", "10.1.11.0/24", "10.1.10.0/24"]
PODS = [
    {"name": "spk-apps/nginx-1", "primary": "10.124.18.207", "secondary": "10.1.10.171"},
    {"name": "spk-apps/nginx-2", "primary": "10.124.18.211", "secondary": "10.1.10.170"},
]
RULES = """\
0:      from all lookup local
32254:  from all to 172.21.107.192/26 lookup main
32254:  from all to 172.21.66.0/26 lookup main
32254:  from all to 10.124.18.192/26 lookup main
32254:  from all to 10.1.11.0/24 lookup main
32254:  from all to 10.1.10.0/24 lookup main
32257:  from 10.124.18.207 lookup 1
32257:  from 10.124.18.211 lookup 1
32258:  from 10.1.10.171 lookup 2
32258:  from 10.1.10.170 lookup 2
32766:  from all lookup main
32767:  from all lookup default
"""
"""As article 3 prints them; its tables have names there (`ns-f5-spkshim1ipv4257`), and one range is a slip of it."""

ROUTES = {
    1: ["default via 10.1.30.242 dev shim1", "10.1.30.242 via 10.1.30.242 dev shim1"],
    2: ["default via 10.1.10.160 dev shim2", "10.1.10.160 via 10.1.10.160 dev shim2"],
}
GUARD = "unreachable default metric 4278198272"
"""Beyond the article: what a table still says when its shim is gone."""


def program(folder: Path) -> Path:
    """Return the program as a lab has it: a folder of programs, and beside it what of ours it needs."""
    if not (folder / "harness").exists():
        nothing = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE / "programs", folder / "programs", ignore=nothing)
        shutil.copytree(PACKAGE / "netlink", folder / "harness/netlink", ignore=nothing)
        for name in ("__init__.py", "errors.py"):
            shutil.copy(PACKAGE / name, folder / "harness" / name)
    return folder / "programs/route_controller.py"


class Running:
    """A controller that runs, and the files by which it is told what is wanted."""

    def __init__(self, folder: Path, **state: Any) -> None:
        self.state_file, self.applied = folder / "state.json", folder / "applied"
        self.want(**state)
        config = folder / "config.json"
        config.write_text(
            json.dumps({"state": str(self.state_file), "applied": str(self.applied)}), encoding="utf-8"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(program(folder)), str(config)], stdout=subprocess.PIPE
        )
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.events.put(json.loads(line))

    def want(self, **state: Any) -> None:
        """Replace the state file."""
        whole = {"mode": "pseudoCNI", "direct": DIRECT, **TABLES, "workloads": PODS} | state
        self.write(json.dumps(whole))

    def write(self, text: str) -> None:
        """Rename a text over the state file."""
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.state_file)

    def until(self, event: str) -> dict[str, Any]:
        """Return the next event of a name, past all others."""
        while True:
            found = self.events.get(timeout=PATIENCE)
            if found["event"] == event:
                return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def node() -> None:
    """Make a worker: a pod's interface, two network cards with a macvlan shim each."""
    with netlink.Socket() as route:
        route.send(
            [
                netlink.link_set(1, up=True),
                netlink.veth("cali0", CALI, MAC.format(2), "eth0", 3, MAC.format(3)),
                netlink.veth("ens224", ENS224, MAC.format(4), "far224", 5, MAC.format(5)),
                netlink.veth("ens256", ENS256, MAC.format(6), "far256", 7, MAC.format(7)),
                *(netlink.link_set(index, up=True) for index in range(2, 8)),
                netlink.route("10.124.18.207/32", dev=CALI),
            ]
        )
        shims(route)
        # by its own way the node reaches everything: the leak that is to be shut
        route.send([netlink.route("default", gateway="10.1.30.1", dev=SHIM1, onlink=True, metric=9)])
        route.send([netlink.address(ENS256, "10.1.99.2/24"), netlink.route("default", dev=ENS256)])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def shims(route: netlink.Socket, *, mode: str = "bridge") -> None:
    """Make both shims, and bring them up with their addresses."""
    route.send(
        [
            netlink.macvlan("shim1", SHIM1, MAC.format(8), ENS224, mode=mode),
            netlink.macvlan("shim2", SHIM2, MAC.format(9), ENS256, mode=mode),
            netlink.address(SHIM1, "10.1.30.244/24"),
            netlink.address(SHIM2, "10.1.10.244/24"),
            netlink.link_set(SHIM1, up=True),
            netlink.link_set(SHIM2, up=True),
        ]
    )


def ip(*words: str) -> list[str]:
    """Return the lines that iproute2 prints, without blanks at their ends."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    return [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines()]


def rules() -> list[str]:
    """Return the node's rules as ip(8) prints them."""
    return ip("rule")


def way_out() -> str:
    """Return where a packet of the first pod to a server outside goes."""
    return ip("route", "get", "10.1.70.30", "from", "10.124.18.207", "iif", "cali0")[0]


@contextmanager
def controlled(folder: Path, **state: Any) -> Iterator[Running]:
    """Run a controller on a node of its own until it is ready, and end it afterwards."""
    node()
    running = Running(folder, **state)
    try:
        running.until("ready")
        yield running
    finally:
        running.process.kill()
        running.process.wait(PATIENCE)


ARTICLE = [" ".join(line.split()) for line in RULES.splitlines()]


@alone
def test_rules_and_tables_print_as_in_the_article(tmp_path: Path) -> None:
    """`ip rule` and `ip route show table` say line by line what article 3 shows, and each table's guard."""
    with controlled(tmp_path):
        assert rules() == ARTICLE
        for table, lines in ROUTES.items():
            assert ip("route", "show", "table", str(table)) == [lines[0], GUARD, lines[1]]
        assert "via 10.1.30.242 dev shim1 table 1" in way_out()


@alone
def test_a_pod_that_goes_takes_its_rules_with_it(tmp_path: Path) -> None:
    """Its two rules are gone and the others as they were; what stood is said in the state that was applied."""
    with controlled(tmp_path) as running:
        before = running.applied.read_text(encoding="ascii")
        running.want(workloads=PODS[1:])
        change = running.until("changed")
        assert len(change["deleted"]) == 2
        assert not change["added"]
        assert rules() == [line for line in ARTICLE if ".207 " not in line and ".171 " not in line]
        running.want(workloads=PODS)
        assert len(running.until("changed")["added"]) == 2
        assert len(rules()) == len(ARTICLE)
        assert before


@alone
def test_a_shim_that_is_down_lets_nothing_out_by_the_nodes_own_way(tmp_path: Path) -> None:
    """The table answers unreachable until the shim is back, and then leads to the gateway again."""
    with controlled(tmp_path) as running, netlink.Socket() as route:
        route.send([netlink.link_set(SHIM1, up=False)])
        assert "shim1" in running.until("closed")["reason"]
        assert ip("route", "show", "table", "1") == [GUARD]
        assert "unreachable" in way_out() or "No route to host" in way_out()
        route.send([netlink.link_set(SHIM1, up=True)])
        running.until("changed")
        assert ip("route", "show", "table", "1") == [ROUTES[1][0], GUARD, ROUTES[1][1]]
        assert "via 10.1.30.242 dev shim1 table 1" in way_out()


@alone
def test_without_the_guard_the_traffic_leaks(tmp_path: Path) -> None:
    """With the guard taken away and the shim down, the pod's packet leaves by the main table: the guard is why not."""
    with controlled(tmp_path) as running, netlink.Socket() as route:
        assert running.end() == 0
        route.send([netlink.route_del("default", table=1, metric=4278198272)])
        route.send([netlink.link_set(SHIM1, up=False)])
        assert "dev ens256" in way_out()


@alone
def test_shims_made_anew_are_used_again(tmp_path: Path) -> None:
    """A shim with the same name and another life gets its table's routes back."""
    with controlled(tmp_path) as running, netlink.Socket() as route:
        route.send([netlink.link_del(SHIM1), netlink.link_del(SHIM2)])
        running.until("closed")
        shims(route)
        deadline = time.monotonic() + PATIENCE
        while ip("route", "show", "table", "2") != [ROUTES[2][0], GUARD, ROUTES[2][1]]:
            assert time.monotonic() < deadline
            running.until("changed")


@alone
def test_what_others_take_away_comes_back(tmp_path: Path) -> None:
    """A rule and a route deleted by hand are made again, and a rule set by hand at our priorities is deleted."""
    with controlled(tmp_path) as running:
        for words in (
            ("rule", "del", "priority", "32257", "from", "10.124.18.211"),
            ("rule", "add", "priority", "32258", "from", "10.1.10.99", "lookup", "2"),
            ("route", "del", "default", "via", "10.1.30.242", "table", "1"),
        ):
            assert ip(*words) == []
            running.until("changed")
        assert sorted(rules()) == sorted(ARTICLE)
        assert ip("route", "show", "table", "1") == [ROUTES[1][0], GUARD, ROUTES[1][1]]


@alone
def test_a_controller_that_was_killed_finds_everything_as_it_left_it(tmp_path: Path) -> None:
    """After SIGKILL all stands; the next one changes nothing; what changed while none ran is caught up with."""
    with controlled(tmp_path) as running:
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        assert rules() == ARTICLE
        again = Running(tmp_path)
        first = again.until("changed")
        assert (first["added"], first["deleted"]) == ([], [])
        again.end(signal.SIGKILL)
        third = Running(tmp_path, workloads=PODS[1:])
        assert len(third.until("changed")["deleted"]) == 2
        assert third.end() == 0


@alone
def test_a_state_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """The one before holds on, and the next good one counts."""
    with controlled(tmp_path) as running:
        running.write('{"mode": "pseudoCNI"')
        assert running.until("unusable")["reason"]
        assert rules() == ARTICLE
        running.want(workloads=PODS[1:])
        assert len(running.until("changed")["deleted"]) == 2


@alone
def test_500_pods_and_one_more(tmp_path: Path) -> None:
    """500 pods get their rules at once, and of one more only its own is made."""
    many = [{"name": f"spk-apps/w{n}", "primary": f"10.124.{n // 250}.{n % 250 + 1}"} for n in range(501)]
    with controlled(tmp_path, workloads=many[:500]) as running:
        assert sum(line.startswith("32257:") for line in rules()) == 500
        running.want(workloads=many)
        change = running.until("changed")
        assert change["added"] == ["add rule 32257 from 10.124.2.1/32 to all table 1"]
        assert not change["deleted"]
        running.want(workloads=many[:1])
        assert len(running.until("changed")["deleted"]) == 500


@alone
def test_a_hundred_flaps_end_in_the_right_state(tmp_path: Path) -> None:
    """However fast a shim goes down and up, in the end the table leads to the gateway."""
    with controlled(tmp_path) as running, netlink.Socket() as route:
        for _ in range(100):
            route.send([netlink.link_set(SHIM1, up=False), netlink.link_set(SHIM1, up=True)])
        deadline = time.monotonic() + PATIENCE
        while ip("route", "show", "table", "1") != [ROUTES[1][0], GUARD, ROUTES[1][1]]:
            assert time.monotonic() < deadline
            running.until("changed")


def test_a_first_state_that_cannot_be_used_ends_it_in_one_sentence(tmp_path: Path) -> None:
    """Exit status 2, and no traceback."""
    (tmp_path / "state.json").write_text('{"mode": "other"}', encoding="utf-8")
    config = {"state": str(tmp_path / "state.json"), "applied": str(tmp_path / "applied")}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    argv = [sys.executable, "-S", "-E", str(program(tmp_path)), str(tmp_path / "config.json")]
    done = subprocess.run(argv, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "state.json: KeyError: 'other'" in done.stderr
