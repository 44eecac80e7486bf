"""Each of these changes of a running lab with overlays must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from edited_lab import written
from small_lab import Files, own_name, standing

from harness.capabilities import runnable
from harness.drivers import netns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from small_lab import Standing

    from harness.scenario import Item

pytestmark = pytest.mark.live

LAB = "overlays"
SECONDS = 20.0
PLAIN = "CrossSubnet leaves packets within a rack as they are"
WRAPPED = "CrossSubnet wraps packets to another rack"
ALWAYS = "Always wraps packets within a rack too"
NEVER = "Never leaves packets within a rack as they are"


@dataclass(frozen=True)
class Fault:
    """Commands that break the lab at a node and mend it, and what a scenario must say of it at which hop."""

    node: str
    broken: str
    mended: str
    scenario: str
    at: str
    says: str


def _route(block: str, wrong: str, right: str) -> tuple[str, str]:
    return f"ip route replace {block} {wrong}", f"ip route replace {block} {right}"


FAULTS = {
    "cross-subnet-wraps-within-a-rack": Fault(
        "worker-a1",
        *_route("10.124.0.64/26", "via 10.124.0.64 dev vxlan.calico onlink", "via 172.28.16.3"),
        PLAIN,
        "worker-a1.rack-a",
        "IP.src 172.28.16.2",
    ),
    "cross-subnet-wraps-nothing": Fault(
        "worker-a1",
        *_route("10.124.0.128/26", "via 172.28.16.254", "via 10.124.0.128 dev vxlan.calico onlink"),
        WRAPPED,
        "worker-b1",
        "nothing; last seen at core",
    ),
    "always-does-not-wrap": Fault(
        "worker-a1",
        *_route("10.125.0.64/26", "via 172.28.16.3", "via 10.124.0.64 dev vxlan.calico onlink"),
        ALWAYS,
        "worker-a1.rack-a",
        "IP.src 10.125.0.1",
    ),
    "never-wraps": Fault(
        "worker-a1",
        *_route("10.126.0.64/26", "via 10.124.0.64 dev vxlan.calico onlink", "via 172.28.16.3"),
        NEVER,
        "worker-a1.rack-a",
        "IP.src 172.28.16.2",
    ),
    "the-way-through-the-tunnel-is-gone": Fault(
        "worker-a1",
        "ip route del 10.124.0.128/26",
        "ip route add 10.124.0.128/26 via 10.124.0.128 dev vxlan.calico onlink",
        WRAPPED,
        "worker-b1",
        "nothing; last seen at",
    ),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab up, with scenarios that are tried once: what is broken does not mend by waiting."""
    files = written(LAB, tmp_path_factory.mktemp(LAB), lambda _: None)
    items = tuple(_once(item) for item in files.items)
    with standing(Files(files.lab, files.scenarios, items), own_name("overlays-broken")) as found:
        yield found


def _once(item: Item) -> Item:
    return item.model_copy(update={"scenario": item.scenario.model_copy(update={"within": None})})


def done(lab: Standing, node: str, command: str) -> None:
    """Have an administrator's command done on a node."""
    result = lab.lab.run(node, ["sh", "-ec", command], seconds=SECONDS, capable=True)
    assert result.code == 0, result.stderr


def test_every_scenario_holds(lab: Standing) -> None:
    """Every shipped scenario that this machine can run holds while nothing is broken."""
    session = lab.session()
    able, _ = runnable(lab.files.items, lab.lab.plan.lab, netns.missing, ())
    for item in able:
        verdict = session.run(item).verdict
        assert verdict.state == "held", f"{item.id}: {verdict}"


@pytest.mark.skipif("ipip" not in netns.missing(["ipip"]), reason="this kernel has IP-in-IP")
def test_vxlan_is_not_taken_for_ip_in_ip(lab: Standing) -> None:
    """Run all the same where VXLAN took its place, the scenario that needs IP-in-IP is broken by what it saw."""
    item = lab.items("IP-in-IP wraps packets to another rack")[0]
    verdict = lab.session().run(item).verdict
    assert verdict.state == "broken", str(verdict)
    assert any(one.at == "core.rack-a" and "IP.proto 17" in str(one) for one in verdict.reasons), str(verdict)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_overlay_is_noticed_and_its_hop_named(name: str, lab: Standing) -> None:
    """The scenario holds, is broken by the fault at the hop that it names, and holds again when that is mended."""
    fault = FAULTS[name]
    item = lab.items(fault.scenario)[0]
    done(lab, fault.node, fault.broken)
    try:
        verdict = lab.session().run(item).verdict
    finally:
        done(lab, fault.node, fault.mended)
    assert verdict.state == "broken", str(verdict)
    assert any(reason.at == fault.at and fault.says in str(reason) for reason in verdict.reasons), str(
        verdict
    )
    mended = lab.session().run(item).verdict
    assert mended.state == "held", str(mended)
