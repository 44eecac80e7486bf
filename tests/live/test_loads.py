"""Loads: many flows of one scenario, every one proven, while the lab changes under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_lab import own_name

from harness import shipped
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.run import Result, Session
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

SCENARIOS = """
lab: echo-without-envoy
scenarios:
  - name: good flows while a pod comes
    from: trusted/sleep
    to: tcp://bigip.default:9000
    load: {flows: 120, per_second: 100}
    during: [{create: trusted/newcomer}]
    expect:
      allowed:
        path: [sidecar, bigip, firewall, echo]
        identity: {at: bigip, is: spiffe://cluster.local/ns/trusted/sa/sleep}
        source: {at: echo, is: snat/trusted}

  - name: bad flows, none admitted
    from: default/default
    to: tcp://bigip:9000
    load: {flows: 60, per_second: 100}
    control: good flows while a pod comes
    expect:
      rejected: {at: bigip, by: trusted-sleep, unseen_by: [firewall, echo]}

  - name: good flows while the server dies
    from: trusted/sleep
    to: tcp://bigip.default:9000
    load: {flows: 40, per_second: 40}
    during: [{kill: echo}]
    expect:
      allowed:
        path: [sidecar, bigip, firewall, echo]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """Run the loads on one lab."""
    path = shipped.find_lab("echo-without-envoy")
    file: Path = tmp_path_factory.mktemp("load") / "load.yaml"
    file.write_text(SCENARIOS, encoding="utf-8")
    source = (str(path), path.read_text(encoding="utf-8"))
    lab: NamespaceLab = stand_up(make_plan(load_lab(path)), own_name("load"), source, owned=True)
    try:
        session = Session(lab)
        yield {item.scenario.name: session.run(item) for item in load_scenarios(file)}
    finally:
        lab.close()


def test_every_flow_of_a_load_is_proven(results: dict[str, Result]) -> None:
    """All 120 flows passed every hop, before, amid and after the change, and nothing was lost of the evidence."""
    result = results["good flows while a pod comes"]
    assert result.verdict.state == "held", str(result.verdict)
    assert result.load is not None
    assert list(result.load) == ["held"]
    assert result.load["held"] >= 120  # more where the pod takes longer to come than the load
    (during,) = (finding for finding in result.verdict.findings if finding.check == "during")
    assert "before" in during.seen


def test_a_load_that_is_denied_is_denied_every_time(results: dict[str, Result]) -> None:
    """Sixty flows reach the proxy and nothing of them reaches the hops behind it."""
    result = results["bad flows, none admitted"]
    assert result.verdict.state == "held", str(result.verdict)
    assert result.load == {"held": 60}


def test_a_load_that_loses_flows_is_broken(results: dict[str, Result]) -> None:
    """A server that dies amid a load costs flows: broken, with the first that was lost and its last hop."""
    result = results["good flows while the server dies"]
    assert result.verdict.state == "broken", str(result.verdict)
    assert result.load is not None
    assert result.load["held"] >= 10
    assert result.load["broken"] >= 10
    assert {finding.at for finding in result.verdict.reasons if finding.check == "path"} == {"echo"}
