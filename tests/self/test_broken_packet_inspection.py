"""Each of these edits of the lab of mirrored ports must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import Case, written
from small_lab import own_name, standing

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

LAB = "packet-inspection"
WRAPPED = "a query between nodes is wrapped by the overlay, tunnel end points outside and pods inside"
MIRRORED = "every frame of a mirrored port arrives at the capture host, wrapped by the mirror's tunnel"
LONG = "a capture interface of 1600 bytes gets the longest frames too"
SHORT = "a capture interface of 1500 bytes loses the longest frames and gets the rest"


def _mirror(lab: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = lab["outside"]["wireshark"]["mirrors"]["db-port"]
    return found


def _wrong_port(lab: dict[str, Any]) -> None:
    _mirror(lab)["pod"] = "wordpress/web"


def _other_pod(lab: dict[str, Any]) -> None:
    lab["namespaces"]["wordpress"]["workloads"]["other"] = {"runs": "client", "node": "agent-1"}
    _mirror(lab)["pod"] = "wordpress/other"


def _wrong_vni(lab: dict[str, Any]) -> None:
    _mirror(lab)["vni"] = 5003


def _small_interface(lab: dict[str, Any]) -> None:
    lab["outside"]["wireshark"]["on"] = {"nodes": {"mtu": 1500}}


def _small_switch(lab: dict[str, Any]) -> None:
    lab["networks"]["nodes"]["mtu"] = 1500


def _wide_interface(lab: dict[str, Any]) -> None:
    lab["outside"]["small-wireshark"]["on"] = {"nodes": {}}


def _other_remote(lab: dict[str, Any]) -> None:
    """Exchange the addresses that the mirrors' tunnels lead to, so that each host gets the other's frames."""
    first, second = lab["outside"]["wireshark"]["mirrors"], lab["outside"]["small-wireshark"]["mirrors"]
    first["db-port"], second["db-port-too"] = second["db-port-too"], first["db-port"]


def _one_node(lab: dict[str, Any]) -> None:
    lab["namespaces"]["wordpress"]["workloads"]["db"]["node"] = "agent-0"


CASES = {
    "the-client's-port-mirrored": Case(_wrong_port, MIRRORED, "wireshark.nodes", "IP.src 172.19.0.3"),
    "another-pod's-port-mirrored": Case(_other_pod, MIRRORED, "wireshark", "nothing; last seen at"),
    "another-vni": Case(_wrong_vni, MIRRORED, "wireshark.nodes", "VXLAN.vni 5003"),
    "another-mirror's-frames": Case(_other_remote, MIRRORED, "wireshark.nodes", "VXLAN.vni 5002"),
    "a-small-capture-interface": Case(_small_interface, LONG, "wireshark.nodes", "seen: 0 packets"),
    "a-small-switch": Case(_small_switch, LONG, "wordpress/db.eth0", "seen: 0 packets"),
    "a-capture-interface-that-loses-nothing": Case(
        _wide_interface, SHORT, "small-wireshark.nodes", "expected 0 packets; seen: "
    ),
    "both-pods-on-one-node": Case(_one_node, WRAPPED, "agent-1", "nothing; last seen at"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(name: str, tmp_path: Path) -> None:
    """The scenario is broken, and a reason names the hop and what was seen there."""
    case = CASES[name]
    files = written(LAB, tmp_path, case.edit)
    with standing(files, own_name("packets-broken")) as lab:
        item = next(item for item in files.items if item.scenario.name == case.scenario)
        verdict = lab.session().run(item).verdict
    assert verdict.state == "broken", str(verdict)
    assert any(reason.at == case.at and case.says in str(reason) for reason in verdict.reasons), str(verdict)
