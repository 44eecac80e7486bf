"""A lab with a cluster of k3d: engine, image, networks and nodes outside are real, k3d and the cluster's API are not.

The fake k3d notes what it is asked for; the API double has every pod ready with the address that its annotation wants.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from api_double import ApiDouble
from shipped_lab import plan_of
from small_lab import own_name

from harness.drivers.k3d import cluster_file, image, outside
from harness.drivers.k3d.engine import LAB, connect
from harness.drivers.k3d.pins import pins
from harness.drivers.k3d.pod_objects import ADDRESS
from harness.drivers.k3d.real_cluster import standing_up
from harness.errors import StartError

if TYPE_CHECKING:
    from own_engine import Engine

pytestmark = pytest.mark.live

NAME = "bookinfo-egress"
K3D = """\
#!/bin/sh
echo "$@" >> {folder}/calls
[ "$1 $2" != "kubeconfig get" ] || cat {folder}/kubeconfig
"""
MANIFEST = """\
kind: ConfigMap
apiVersion: v1
metadata: {name: calico-config, namespace: kube-system}
data: {cni_network_config: '{"plugins": [{"type": "calico", "mtu": __CNI_MTU__}]}'}
---
kind: DaemonSet
apiVersion: apps/v1
metadata: {name: calico-node, namespace: kube-system}
spec: {template: {spec: {containers: [{name: calico-node, image: x}]}}}
"""


class Willing(ApiDouble):
    """An API server whose pods are ready as soon as they are applied, each with the address that it wants."""

    def put(self, path: str, found: dict[str, Any], event: str = "") -> None:
        """Keep an object; a pod gets its status."""
        if found.get("kind") == "Pod":
            wanted = found["metadata"].get("annotations", {}).get(ADDRESS, '["172.19.128.9"]')
            ready = [{"type": "Ready", "status": "True"}]
            found["status"] = {"phase": "Running", "podIP": json.loads(wanted)[0], "conditions": ready}
        super().put(path, found, event)


def machine(folder: Path, double: ApiDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a fake k3d, Calico's manifest as a file, and every image at the engine."""
    (folder / "k3d").write_text(K3D.format(folder=folder), encoding="utf-8")
    (folder / "k3d").chmod(0o755)
    (folder / "kubeconfig").write_text(double.kubeconfig(), encoding="utf-8")
    (folder / "calico.yaml").write_text(MANIFEST, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("EGRESSLAB_CALICO", str(folder / "calico.yaml"))
    client = connect()
    own = client.images.get(image.ensure(client, "t", print))
    for name in pins().images:
        own.tag(*name.rsplit(":", 1))
    client.close()


def test_all_but_the_cluster_is_real(
    docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order: networks, cluster, images, Calico, objects, nodes outside; afterwards nothing of it is left."""
    assert docker_engine.host
    plan, name = plan_of(NAME), own_name("c")[:20]
    told: list[str] = []
    with Willing(tmp_path) as double:
        machine(tmp_path, double, monkeypatch)
        for number, node in enumerate(cluster_file.containers(plan, name).values()):
            address = {"type": "InternalIP", "address": f"172.19.128.{number + 2}"}
            ready = [{"type": "Ready", "status": "True"}]
            found = {"metadata": {"name": node}, "status": {"conditions": ready, "addresses": [address]}}
            double.put(f"/api/v1/nodes/{node}", found)
        with standing_up(plan, name, told.append) as lab:
            client = connect()
            network = client.api.inspect_network(outside.full_name(name, "nodes"))
            assert network["IPAM"]["Config"][0]["IPRange"] == "172.19.128.0/17"
            client.close()
            assert lab.pods["bookinfo/details"] == str(lab.state.bindings.pods["bookinfo/details"])
            # a program of a node outside answers, and the cluster's nodes are where the engine put them
            answer = lab.outside.link("bigip").call(
                "run", node="bigip", argv=["echo", "here"], seconds=20, capable=False
            )
            assert (answer["code"], answer["stdout"]) == (0, "here\n")
            assert str(lab.state.bindings.addresses["server-0", "nodes"]) == "172.19.128.2"
    applied = [path.split("?")[0] for method, path in double.requests if method == "PATCH"]
    order = ["/".join(path.rsplit("/", 2)[-2:]) for path in applied]
    assert (
        order.index("daemonsets/calico-node")
        < order.index("namespaces/bookinfo")
        < order.index("ippools/lab-default")
    )
    assert order.index("secrets/details-files") < order.index("pods/details")
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.split()[:2] for call in calls] == [
        ["cluster", "create"],
        ["kubeconfig", "get"],
        ["image", "import"],
        ["cluster", "delete"],
    ]
    assert {
        found["metadata"]["labels"][LAB] for path, found in double.objects.items() if "nodes" not in path
    } == {name}
    client = connect()
    assert name not in outside.labs(client)
    client.close()
    assert told


def test_a_pod_with_another_address_ends_the_start(
    docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that gives pods other addresses than they were to have is no such lab; all of it is taken down."""
    assert docker_engine.host
    plan, name = plan_of(NAME), own_name("d")[:20]

    class Unwilling(Willing):
        def put(self, path: str, found: dict[str, Any], event: str = "") -> None:
            """Keep an object; pods get an address of their own."""
            found["metadata"].pop("annotations", None)
            super().put(path, found, event)

    with Unwilling(tmp_path) as double:
        machine(tmp_path, double, monkeypatch)
        for node in cluster_file.containers(plan, name).values():
            address = {"type": "InternalIP", "address": "172.19.128.2"}
            ready = [{"type": "Ready", "status": "True"}]
            found = {"metadata": {"name": node}, "status": {"conditions": ready, "addresses": [address]}}
            double.put(f"/api/v1/nodes/{node}", found)
        with (
            pytest.raises(StartError, match="Calico did not take its annotation"),
            standing_up(plan, name, lambda _: None),
        ):
            pass
    assert "cluster delete" in (tmp_path / "calls").read_text(encoding="utf-8")
    client = connect()
    assert name not in outside.labs(client)
    client.close()
