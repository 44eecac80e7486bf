"""Labs cut into containers: what the engine is asked for, what each agent is given, and what a change comes to."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest
from small_tenants import plan_of, pretended_certificates

from harness.agent.bind import bind
from harness.agent.layout import Layout, Payload
from harness.agent.lower import lower
from harness.drivers.k3d import image, store
from harness.drivers.k3d.differences import compare
from harness.drivers.k3d.link import _loads
from harness.drivers.k3d.outside import _archive, _owner_of
from harness.drivers.k3d.parts import CAPABILITIES, HOST_CAPABILITIES, Container, containers, networks
from harness.errors import InputError
from harness.plan import render
from harness.programs.fivetuple import FiveTuple

if TYPE_CHECKING:
    from pathlib import Path

LAB = """
lab: small
networks:
  nodes: {cidr: 172.30.0.0/24}
  beyond: {cidr: 198.51.100.0/28}
cluster:
  nodes: [server-0, agent-0]
  pools: {default: {cidr: 10.60.0.0/16, block: 26, overlay: none, nat_outgoing: true}}
  services_cidr: 10.61.0.0/16
namespaces:
  shop: {workloads: {web: {runs: http, port: 80, node: agent-0}, app: {runs: client, node: server-0}}}
outside:
  fence:
    kind: firewall
    on: {nodes: {}, beyond: {}}
    rules: [{name: web, from: nodes, to: beyond, port: 80, allow: true}]
  site: {kind: website, on: {beyond: {address: 198.51.100.14}}}
"""


def payload_of(text: str = LAB) -> Payload:
    """Return what a whole lab comes to, its programs left out."""
    plan = plan_of(text)
    bindings = bind(plan, ("python3",))
    layout = lower(plan, bindings, render(plan, bindings, pretended_certificates(plan)))
    return Payload("small", ("lab.yaml", text), b"", layout, (), (), (), "/bin", None, 1.0)


def by_name(payload: Payload) -> dict[str, Container]:
    """Return a lab's containers by name."""
    return {container.name: container for container in containers(payload)}


def test_a_container_for_each_node_but_pods() -> None:
    """Nodes outside and cluster nodes are containers, and each holds itself and the pods that run on it."""
    found = by_name(payload_of())
    assert set(found) == {"server-0", "agent-0", "fence", "site"}
    assert found["agent-0"].holds == ("agent-0", "shop/web")
    assert set(found["server-0"].holds) == {"server-0", "kube-system/kube-dns", "shop/app"}
    assert found["fence"].holds == ("fence",)


def test_capabilities_are_those_that_a_node_needs() -> None:
    """A node outside has two, under the engine's own seccomp profile; who makes pods' namespaces has more."""
    found = by_name(payload_of())
    assert (found["fence"].capabilities, found["fence"].confined) == (CAPABILITIES, True)
    assert (found["agent-0"].capabilities, found["agent-0"].confined) == (HOST_CAPABILITIES, False)


def test_cards_have_the_plans_addresses() -> None:
    """The engine is told the address of each card, and the agent finds the card by it."""
    fence = by_name(payload_of())["fence"]
    assert [network for network, _ in fence.cards] == ["nodes", "beyond"]
    assert fence.payload.layout.spaces[0].here
    given = [nic.found_by for nic in fence.payload.layout.spaces[0].nics]
    assert given == [str(address) for _, address in fence.cards]
    assert fence.sysctls["net.ipv4.ip_forward"] == "1"


def test_the_engines_bridge_takes_nobodys_address() -> None:
    """A network's bridge has the last address that no node has; 198.51.100.14 is the website's here."""
    found = {network.name: network for network in networks(payload_of())}
    assert found["nodes"].gateway == IPv4Address("172.30.0.254")
    assert found["beyond"].gateway == IPv4Address("198.51.100.13")
    assert found["beyond"].cidr == IPv4Network("198.51.100.0/28")


def test_a_network_without_room_for_the_bridge_is_refused() -> None:
    """A network whose every address is a node's has none left for the engine, and that is said."""
    payload = payload_of()
    full = replace(payload, layout=replace(payload.layout, bridges={"beyond": ("198.51.100.14/32", 1500)}))
    with pytest.raises(InputError, match="no address left for the container engine"):
        networks(full)


def test_a_container_is_given_nothing_of_others() -> None:
    """Neither the state with every key, nor spaces of other containers, nor the lab file are in a payload."""
    for container in containers(replace(payload_of(), state=b"keys")):
        assert container.payload.state == b""
        assert container.payload.source == ("", "")
        assert {space.name for space in container.payload.layout.spaces} == set(container.holds)
        assert isinstance(container.payload.layout, Layout)


def test_a_pod_that_comes_changes_its_nodes_container() -> None:
    """Only the agent of the pod's node has a pod to make; no container is made anew."""
    more = LAB.replace("app: {runs: client", "late: {runs: client, node: agent-0}, app: {runs: client")
    found = compare(containers(payload_of()), containers(payload_of(more)))
    assert (found.gone, found.made) == ((), ())
    made = {container.name: [space.name for space in change.new] for container, change in found.changed}
    assert made["agent-0"] == ["shop/late"]
    assert made["fence"] == []


def test_a_node_with_another_card_is_made_anew() -> None:
    """A container whose cards differ, one that is new and one that is booted are made; one that went is removed."""
    other = LAB.replace("beyond: {address: 198.51.100.14}", "beyond: {address: 198.51.100.12}")
    found = compare(containers(payload_of()), containers(payload_of(other)))
    assert (found.gone, [one.name for one in found.made]) == (("site",), ["site"])
    booted = compare(containers(payload_of()), containers(payload_of()), anew=("agent-0",))
    assert (booted.gone, [one.name for one in booted.made]) == (("agent-0",), ["agent-0"])
    without = "\n".join(line for line in LAB.splitlines() if "site:" not in line)
    gone = compare(containers(payload_of()), containers(payload_of(without)))
    assert (gone.gone, gone.made) == (("site",), ())


def test_a_container_cannot_make_us_call_anything() -> None:
    """Of what an agent sends only values and records are read; a pickle that calls a function is refused."""
    record = FiveTuple(6, "10.0.0.1", 1, "10.0.0.2", 2)
    assert _loads(pickle.dumps({"flows": [record], "bytes": b"x"})) == {"flows": [record], "bytes": b"x"}

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="system"):
        _loads(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError):
        _loads(b"charness.programs.tap\nTap\n.")  # a class of ours that does something when it is made


def test_who_has_a_subnet_is_said() -> None:
    """A subnet that is taken is named with its network, and with its lab where it is one of ours."""
    ours: dict[str, Any] = {
        "Name": "x",
        "Labels": {"egresslab.lab": "one"},
        "IPAM": {"Config": [{"Subnet": "10.4.0.0/16"}]},
    }
    other: dict[str, Any] = {
        "Name": "bridge",
        "Labels": None,
        "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]},
    }
    sixth: dict[str, Any] = {"Name": "six", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}
    present = [sixth, ours, other]
    assert _owner_of(IPv4Network("10.4.1.0/24"), present) == "overlaps with 10.4.0.0/16 of lab 'one'"
    assert "network 'bridge' of this Docker Engine" in str(_owner_of(IPv4Network("172.16.0.0/12"), present))
    assert _owner_of(IPv4Network("192.0.2.0/24"), present) is None


def test_the_payload_is_root_only() -> None:
    """What a container is given lies in one file, which only root may read: keys are in it."""
    with tarfile.open(fileobj=io.BytesIO(_archive("/run/egresslab/payload", b"secret"))) as archive:
        entry = archive.getmember("run/egresslab/payload")
        assert (entry.mode, entry.uid, entry.size) == (0o600, 0, 6)


def test_a_labs_name_is_locked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stands a lab up has its name for itself; nothing is known of a lab that nobody kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    held = store.lock("one")
    assert held is not None
    assert store.lock("one") is None
    store.unlock("one", held)
    assert store.recall("one") is None
    again = store.lock("one")
    assert again is not None
    store.unlock("one", again)
    assert list((tmp_path / "egresslab" / "k3d").iterdir()) == []


def test_merged_folders() -> None:
    """What packages put below /bin or /lib lies below /usr, as on an installed Debian; the rest where it was."""
    assert image._merged("./bin/ip") == "usr/bin/ip"
    assert image._merged("./lib/x86_64-linux-gnu/libc.so.6") == "usr/lib/x86_64-linux-gnu/libc.so.6"
    assert image._merged("./etc/hosts") == "etc/hosts"
    assert image._merged("./usr/bin/nft") == "usr/bin/nft"


def test_versions_are_pinned_in_one_file() -> None:
    """The recipe names its packages and release, and the cluster's parts each have a version."""
    pinned = image.versions()
    assert "bird2" in pinned["image"]["packages"]
    assert set(pinned["cluster"]) >= {"k3d", "k3s", "calico", "istio"}
