"""Each of these faults of the fourth article's lab must turn a named scenario to broken, with the hop named.

Some are edits of the lab file, others are done to a lab that runs, behind the back of what was declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import Case, written
from small_lab import own_name, standing

from harness import bird

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from small_lab import Standing

    from harness.verdict import Verdict

pytestmark = pytest.mark.live

PLATFORM = "platform-bgp"
BLOCKS = "the proxy knows one block of each node"
SECONDS = 10.0


@dataclass(frozen=True)
class Fault:
    """A command on a node of a lab that runs and the one that mends it, the scenario, and what it must say where."""

    node: str
    do: str
    mend: str
    scenario: str
    at: str
    says: str


def _peer(name: str, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["cluster"]["bgp"]["peers"][name][key] = value

    return edit


def _patient(lab: dict[str, Any]) -> None:
    # with BFD the routes would go all the same: a BIRD that is gone sends no BFD packets either
    lab["cluster"]["bgp"]["peers"]["edge"] |= {"graceful_restart": "120s", "bfd": None}


def _translated(lab: dict[str, Any]) -> None:
    lab["cluster"]["pools"]["default"]["nat_outgoing"] = True


def _no_mesh(lab: dict[str, Any]) -> None:
    lab["cluster"]["bgp"]["mesh"] = False


CASES = {
    "pods-hidden-behind-their-node": Case(
        _translated,
        "a pod reaches a site beyond the proxy from its own address",
        "www.example.com",
        "www.example.com's log 172.19.0.3",
    ),
    "the-proxy-in-another-system": Case(_peer("bigip", "asn", 64999), BLOCKS, "bigip", "AS path 64512"),
    "routes-between-nodes-without-bgp": Case(
        _no_mesh, "every node knows every other's block by the mesh", "server-0", "proto boot"
    ),
    "an-edge-without-bfd": Case(
        _peer("edge", "bfd", None),
        "BFD notices a silent cut in less than a second",
        "edge",
        "no route to pods/agent-2 within 1s; seen: kernel: 10.53.0.192/26 via 172.19.0.5",
    ),
    "an-edge-that-waits-for-a-restart": Case(
        _patient,
        "without graceful restart a peer's routes are gone as soon as its BIRD is",
        "edge",
        "no route to pods/agent-0 within 500ms; seen: kernel: 10.53.0.64/26 via 172.19.0.3",
    ),
    "a-host-that-does-not-wait": Case(
        _peer("sky", "graceful_restart", "0s"),
        "with graceful restart a peer's routes stay when its BIRD is gone, and are used",
        "agent-0",
        "nothing; last seen at sky",
    ),
    "a-hold-time-of-minutes": Case(
        _peer("bigip", "hold_time", "90s"),
        "without BFD a silent cut is noticed when the hold time is over",
        "bigip",
        "no route to pods/agent-2 within 10s after 2s; seen: kernel: 10.53.0.192/26",
    ),
}

FAULTS = {
    "a-peer-is-missing": Fault(
        *("bigip", "birdc -s CONTROL disable node_agent_1", "birdc -s CONTROL enable node_agent_1"),
        *(BLOCKS, "bigip", "no route to 10.53.0.128/26"),
    ),
    "a-stale-block": Fault(
        *("sky", "ip route add BLOCK via 172.19.0.5", "ip route del BLOCK via 172.19.0.5"),
        *("the proxy reaches a pod at its own address", "apps/web-0.eth0", "seen: IP.ttl 61"),
    ),
    "a-stale-block-at-the-proxy": Fault(
        *("bigip", "ip route add BLOCK via 10.10.2.10", "ip route del BLOCK via 10.10.2.10"),
        *("the proxy reaches a pod at its own address", "bigip", "proto boot"),
    ),
    "a-kernel-that-is-not-as-its-bird": Fault(
        "edge",
        "ip route change BLOCK via 172.19.0.5 proto bird metric 32",
        "ip route change BLOCK via 172.19.0.3 proto bird metric 32",
        "another autonomous system learns the blocks with the cluster's number",
        "edge",
        "via 172.19.0.5 proto bird metric 32; BIRD: BGP from node_agent_0, next hop 172.19.0.3",
    ),
}


def noticed(verdict: Verdict, at: str, says: str) -> bool:
    """Say whether a verdict is broken, with a reason that names the hop and what was seen."""
    return verdict.state == "broken" and any(
        reason.at == at and says in str(reason) for reason in verdict.reasons
    )


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written(PLATFORM, tmp_path, case.edit)
    with standing(files, own_name(f"self-{name}"[:40])) as lab:
        (result,) = lab.results(case.scenario)
    assert noticed(result.verdict, case.at, case.says), str(result.verdict)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab up as it is, for faults that are mended again."""
    files = written(PLATFORM, tmp_path_factory.mktemp("platform"), lambda _: None)
    with standing(files, own_name("self-platform")) as lab:
        yield lab


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_lab_that_runs_is_noticed_and_its_hop_named(name: str, platform: Standing) -> None:
    """The scenario holds, is broken while the fault lasts, with the hop named, and holds again when it is mended."""
    fault, lab = FAULTS[name], platform.lab
    words = {
        "CONTROL": bird.control(fault.node, lab.bindings),
        "BLOCK": str(lab.bindings.blocks["agent-0"][0]),
    }

    def run(command: str) -> None:
        done = lab.run(
            fault.node, [words.get(word, word) for word in command.split()], seconds=SECONDS, capable=True
        )
        assert done.code == 0, done.stderr + done.stdout

    (before,) = platform.results(fault.scenario)
    assert before.verdict.state == "held", str(before.verdict)
    run(fault.do)
    (result,) = platform.results(fault.scenario)
    run(fault.mend)
    assert noticed(result.verdict, fault.at, fault.says), str(result.verdict)
    (after,) = platform.results(fault.scenario)
    assert after.verdict.state == "held", str(after.verdict)
