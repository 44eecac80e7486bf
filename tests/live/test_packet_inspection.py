"""The lab of mirrored ports: every scenario holds, and the kernel's own words for overlay and mirror."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from other_user import egresslab_as_other, folder_for_others
from small_lab import own_name

from harness import shipped
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.programs.fivetuple import TCP
from harness.run import Session
from harness.scenario import load_scenarios
from harness.sightings import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

LAB = "packet-inspection"
SECONDS = 20.0


@pytest.fixture(scope="module")
def lab() -> Iterator[NamespaceLab]:
    """Stand the lab up."""
    path = shipped.find_lab(LAB)
    text = (str(path), path.read_text(encoding="utf-8"))
    found = stand_up(make_plan(load_lab(path)), own_name("packets-test"), text, owned=True)
    try:
        yield found
    finally:
        found.close()


def told(lab: NamespaceLab, node: str, *command: str) -> str:
    """Return what an administrator's command prints on a node."""
    done = lab.run(node, list(command), seconds=SECONDS, capable=True)
    assert done.code == 0, done.stderr
    return done.stdout


def test_every_scenario_holds(lab: NamespaceLab) -> None:
    """Every shipped scenario of the lab holds."""
    session = Session(lab)
    for path in shipped.scenario_paths(LAB):
        for item in load_scenarios(path):
            verdict = session.run(item).verdict
            assert verdict.state == "held", str(verdict)


def test_the_overlay_is_as_calico_makes_it(lab: NamespaceLab) -> None:
    """Port 4789, VNI 4096, no learning; routes, neighbours and forwarding entries for every other node."""
    device = told(lab, "agent-0", "ip", "-d", "link", "show", "vxlan.calico")
    assert "mtu 1550" in device
    assert "vxlan id 4096 local 172.19.0.3" in device
    assert "dstport 4789 nolearning" in device
    routes = told(lab, "agent-0", "ip", "route", "show", "dev", "vxlan.calico").splitlines()
    assert [line.split()[:3] for line in routes] == [
        ["10.53.0.0/26", "via", "10.53.0.0"],
        ["10.53.0.128/26", "via", "10.53.0.128"],
    ]
    neighbours = told(lab, "agent-0", "ip", "neigh", "show", "dev", "vxlan.calico")
    assert neighbours.count("PERMANENT") == 2
    entries = told(lab, "agent-0", "bridge", "fdb", "show", "dev", "vxlan.calico")
    assert entries.count("permanent") == 2


def test_pods_have_the_mtu_that_the_overlay_leaves(lab: NamespaceLab) -> None:
    """What a pod may send at most is 50 bytes less than the nodes' network passes on."""
    assert "mtu 1550" in told(lab, "wordpress/db", "ip", "link", "show", "eth0")
    assert "mtu 1600" in told(lab, "agent-1", "ip", "link", "show", "eth0")
    assert "mtu 1500" in told(lab, "small-wireshark", "ip", "link", "show", "eth0")


def test_an_ordinary_user_mirrors_ports_too() -> None:
    """Nothing of it needs privileges: the overlay, the copies, the tunnels, the sizes."""
    with folder_for_others() as folder:
        ran = egresslab_as_other(
            folder, "test", "--lab", LAB, "--name", own_name("packets-user"), seconds=120
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_capture_host_answers_nobody(lab: NamespaceLab) -> None:
    """Mirrored frames arrive, and the host that gets them sends nothing back: neither answers nor ICMP errors."""
    mark = lab.mark()
    query = ["mariadb", "-h", "db", "-u", "wordpress", "-pwordpress", "wordpress", "-e", "SELECT 1"]
    assert lab.run("wordpress/web", query, seconds=SECONDS).code == 0
    assert lab.barrier(5.0) == []
    packets = digest(lab.collect(mark), lab.plan, {}, {}, ()).packets
    assert sum(one.tap == "wireshark.nodes" and one.innermost.flow.protocol == TCP for one in packets) >= 10
    assert not [one for one in packets if one.tap.startswith("wireshark.") and one.outgoing and one.inner]
    assert not [one for one in packets if one.tap.startswith("wireshark.") and one.icmp]
