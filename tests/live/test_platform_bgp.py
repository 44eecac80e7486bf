"""The fourth article's lab: every scenario holds, and what kernels and BIRDs there say by themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from other_user import egresslab_as_other, folder_for_others
from small_lab import own_name

from harness import bird, ready, shipped
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.run import Session
from harness.scenario import Step, load_scenarios
from harness.steps import given

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

PLATFORM = "platform-bgp"
SECONDS = 20.0


@pytest.fixture(scope="module")
def platform() -> Iterator[NamespaceLab]:
    """Stand the lab up."""
    path = shipped.find_lab(PLATFORM)
    source = (str(path), path.read_text(encoding="utf-8"))
    lab = stand_up(make_plan(load_lab(path)), own_name("platform-test"), source, owned=True)
    try:
        yield lab
    finally:
        lab.close()


def printed(lab: NamespaceLab, node: str, *argv: str) -> str:
    """Return what a command prints on a node."""
    done = lab.run(node, argv, seconds=SECONDS, capable=True)
    assert done.code == 0, done.stderr
    return done.stdout


def test_every_scenario_of_the_platform_holds(platform: NamespaceLab) -> None:
    """Each with its steps done and undone."""
    items = [item for path in shipped.scenario_paths(PLATFORM) for item in load_scenarios(path)]
    session = Session(platform, items)
    results = [session.run(item) for item in items]
    assert [f"{one.item.id}: {one.verdict}" for one in results if one.verdict.state != "held"] == []


def test_the_host_of_the_nodes_has_the_articles_table(platform: NamespaceLab) -> None:
    """One /26 for each node, as `ip route` prints them there."""
    lines = re.findall(r"^(\S+/26) via (\S+) dev eth1", printed(platform, "sky", "ip", "route"), re.MULTILINE)
    blocks = platform.bindings.blocks
    nodes = {node.name: str(platform.bindings.address(node)) for node in platform.plan.cluster_nodes}
    assert dict(lines) == {str(blocks[name][0]): address for name, address in nodes.items()}


def test_sessions_are_established_as_the_lab_file_says(platform: NamespaceLab) -> None:
    """Restart time and hold time are those of the session, as BIRD prints them; BFD runs for the edge only."""
    control = bird.control("agent-0", platform.bindings)
    shown = printed(platform, "agent-0", "birdc", "-s", control, "show protocols all peer_bigip")
    assert "Established" in shown
    assert "Restart time: 120" in shown
    assert re.search(r"Hold timer: +[\d.]+/6\n", shown)
    edge = printed(platform, "agent-0", "birdc", "-s", control, "show protocols all peer_edge")
    assert re.search(r"Hold timer: +[\d.]+/240\n", edge)
    sessions = printed(platform, "agent-0", "birdc", "-s", control, "show bfd sessions")
    edges = str(platform.bindings.addresses["edge", "nodes"])
    assert re.findall(r"^(\d\S+) +\S+ +Up", sessions, re.MULTILINE) == [edges]


def test_a_route_written_by_hand_goes_with_its_step(platform: NamespaceLab) -> None:
    """It stands beside BIRD's and wins over it; afterwards the table is what it was."""
    before = printed(platform, "sky", "ip", "route")
    step = Step.model_validate({"route": "sky", "toward": "pods/agent-1", "via": "agent-0"})
    block = platform.bindings.blocks["agent-1"][0]
    with given(platform, [step]) as done:
        written = printed(platform, "sky", "ip", "route", "show", str(block))
        assert re.sub(r"\s+", " ", written).startswith(
            f"{block} via 172.19.0.3 dev eth1 {block} via 172.19.0.4"
        )
        assert len(done.began) == 1
    assert printed(platform, "sky", "ip", "route") == before


def test_changes_of_routes_are_recorded_with_their_time(platform: NamespaceLab) -> None:
    """A route that comes and goes is told twice, between the marks."""
    mark = platform.mark()
    printed(platform, "sky", "ip", "route", "add", "10.99.0.0/24", "via", "172.19.0.3")
    printed(platform, "sky", "ip", "route", "del", "10.99.0.0/24")

    def told() -> list[tuple[int, bool]] | None:
        recorded = platform.collect(mark, ("routes",)).routes.get("sky", ())
        events = [(time, event.added) for time, event in recorded if event.route.dst == "10.99.0.0/24"]
        return events if len(events) >= 2 else None

    (came, first), (went, second) = ready.until("both changes", told, seconds=SECONDS)
    assert (first, second) == (True, False)
    assert mark.time <= came <= went <= platform.mark().time


def birds(lab: NamespaceLab) -> dict[str, object]:
    """Return the process id of each node's BIRD."""
    return {str(one["node"]): one["pid"] for one in lab.programs() if one["name"] == bird.NAME}


def test_a_restart_is_one_of_that_node_only(platform: NamespaceLab) -> None:
    """Its BIRD and its pods are others, with addresses of another block; every other BIRD learns, and runs on."""
    before, pods = birds(platform), dict(platform.bindings.pods)
    blocks = dict(platform.bindings.blocks)
    with given(platform, [Step.model_validate({"reboot": "agent-0"})]) as done:
        after = birds(platform)
        assert {node for node in after if after[node] != before[node]} == {"agent-0"}
        moved = {pod for pod in pods if platform.bindings.pods[pod] != pods[pod]}
        assert moved == {"apps/web-0", "apps/client"}
        assert set(done.blocks["agent-0"]) == {*blocks["agent-0"], *platform.bindings.blocks["agent-0"]}
    assert platform.bindings.blocks == blocks
    assert platform.bindings.pods == pods


def test_a_block_more_is_announced_by_the_bird_that_runs(platform: NamespaceLab) -> None:
    """It reads its file again and no session ends: not one BIRD is another afterwards."""
    before = birds(platform)
    steps = [Step.model_validate({"add_block": "agent-1"})]
    with given(platform, steps):
        added = platform.bindings.blocks["agent-1"][-1]
        assert f"{added} via 172.19.0.4" in printed(platform, "edge", "ip", "route")
        assert birds(platform) == before
    assert str(added) not in printed(platform, "edge", "ip", "route")
    assert birds(platform) == before


def test_an_ordinary_user_speaks_bgp_too() -> None:
    """Nothing of it needs privileges: sessions, BFD, echoes, a restart of a node."""
    with folder_for_others() as folder:
        ran = egresslab_as_other(
            folder, "test", "--lab", PLATFORM, "--name", own_name("platform-user"), seconds=120
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
