"""The first article's lab in containers of a real Docker Engine: the same verdicts, and nothing left of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from shipped_lab import items_of, plan_of
from small_lab import own_name

from harness.drivers import k3d
from harness.drivers.k3d.engine import LAB, connect
from harness.drivers.k3d.outside import full_name
from harness.drivers.k3d.parts import CAPABILITIES
from harness.errors import StartError
from harness.mutation import Mutation
from harness.run import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from own_engine import Engine

    from harness.identity import Certificates
    from harness.plan import Node, Runtime
    from harness.running import MutableLab

pytestmark = pytest.mark.live

SHIPPED = "bookinfo-egress"
SNAT = "bookinfo reaches the internet from its own address"


@pytest.fixture(scope="module")
def lab(docker_engine: Engine) -> Iterator[MutableLab]:
    """Have the shipped lab in containers."""
    assert docker_engine.host
    made = k3d.up(plan_of(SHIPPED), own_name("outside"), ("lab.yaml", ""), owned=True)
    try:
        yield made
    finally:
        made.close()


def described(lab: str, part: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    with closing(connect()) as client:
        found: dict[str, Any] = client.api.inspect_container(full_name(lab, part))
    return found


def test_every_scenario_holds(lab: MutableLab) -> None:
    """All flows of the first article, its steps among them, have the verdicts that they have in namespaces."""
    items = items_of(SHIPPED)
    session = Session(lab, items)
    verdicts = {item.id: str(session.run(item).verdict) for item in items}
    assert len(verdicts) > 30
    assert {word: said for word, said in verdicts.items() if not said.startswith("held")} == {}


def test_a_fault_is_noticed(lab: MutableLab) -> None:
    """Where the proxy's node translates no more, what must come from the tenant's address does not: broken."""

    def untranslated(node: Node, runtime: Runtime, _: Certificates) -> Runtime:
        return replace(runtime, rules="") if node.name == "bigip" else runtime

    [item] = [item for item in items_of(SHIPPED) if item.scenario.name == SNAT]
    lab.mutate(Mutation(runtime=untranslated))
    try:
        result = Session(lab).run(item)
    finally:
        lab.mutate(None)
    assert result.verdict.state == "broken"
    assert Session(lab).run(item).verdict.state == "held"


def test_containers_have_no_more_than_they_need(lab: MutableLab) -> None:
    """A node outside has two capabilities, no mount of the host, no port, no way out by the engine; and the label."""
    for node in ("bigip", "firewall", "tinyproxy", "www.f5.com"):
        found = described(lab.name, node)
        host = found["HostConfig"]
        assert sorted(host["CapAdd"]) == sorted(CAPABILITIES)
        assert host["CapDrop"] == ["ALL"]
        assert not host["Privileged"]
        assert not found["Mounts"]
        assert not host["PortBindings"]
        assert not host["SecurityOpt"]
        assert found["Config"]["Labels"][LAB] == lab.name
        held = lab.run(node, ["cat", "/proc/self/status"], seconds=10).stdout
        assert "CapEff:\t0000000000000000" in held
        routes = lab.run(node, ["ip", "route"], seconds=10).stdout
        assert "default" not in routes
        assert lab.run(node, ["cat", "/etc/resolv.conf"], seconds=10).stdout == ""
    assert not described(lab.name, "agent-0")["HostConfig"]["Privileged"]


def test_a_blind_tap_is_reported(lab: MutableLab) -> None:
    """Every tap's nonce comes back, that of pods' too; a node that is not there is no node."""
    assert lab.barrier(5.0) == []
    assert {node.name for node in lab.plan.nodes} <= set(lab.mark().ends["frames"])
    with pytest.raises(Exception, match="no node 'bigpi'"):
        lab.run("bigpi", ["true"], seconds=1)


def test_a_subnet_that_is_taken_is_named_with_its_owner(lab: MutableLab) -> None:
    """A second lab with the same networks says whose they are, and takes nothing of the first with it."""
    other = own_name("second")
    with pytest.raises(StartError, match=f"lab '{lab.name}'"):
        k3d.up(plan_of(SHIPPED), other, ("lab.yaml", ""), owned=True)
    with closing(connect()) as client:
        assert client.api.containers(all=True, filters={"label": f"{LAB}={other}"}) == []
    assert lab.barrier(5.0) == []


def test_a_name_is_given_once(lab: MutableLab) -> None:
    """A lab whose name another process holds is not stood up, and nothing of the other is removed."""
    with pytest.raises(StartError, match="already up"):
        k3d.up(plan_of(SHIPPED), lab.name, ("lab.yaml", ""), owned=True)
    assert lab.barrier(5.0) == []
