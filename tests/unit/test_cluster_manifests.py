"""Calico's manifest is changed as structure and checked by its checksum; k3d's configuration follows the plan."""

from __future__ import annotations

import hashlib
import json
import threading
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from small_tenants import LAB, plan_of

from harness.drivers.k3d import calico, cluster_file, manifest
from harness.drivers.k3d.objects import Settings
from harness.errors import InputError, StartError
from harness.lab import load_lab
from harness.plan import make_plan
from harness.shipped import find_lab

SETTINGS = Settings("copy", "image")
PINS = {"image": "rancher/k3s:v1.35.5-k3s1", "pause": "rancher/mirrored-pause:3.6"}

MANIFEST = """\
# what calico.yaml has, of the parts that are changed
kind: ConfigMap
apiVersion: v1
metadata: {name: calico-config, namespace: kube-system}
data:
  calico_backend: bird
  cni_network_config: |-
    {"name": "k8s-pod-network", "plugins": [
      {"type": "calico", "mtu": __CNI_MTU__, "nodename": "__KUBERNETES_NODE_NAME__", "ipam": {"type": "calico-ipam"}},
      {"type": "portmap", "snat": true}]}
---
---
kind: DaemonSet
apiVersion: apps/v1
metadata: {name: calico-node, namespace: kube-system}
spec:
  template:
    spec:
      initContainers: [{name: install-cni, image: "quay.io/calico/cni:v3"}]
      containers:
        - name: calico-node
          image: quay.io/calico/node:v3
          env:
            - {name: CALICO_IPV4POOL_IPIP, value: Always}
            - {name: IP, value: autodetect}
            - {name: NODENAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
"""


def changed(text: str = MANIFEST) -> list[dict[str, Any]]:
    """Return the manifest as a lab needs it."""
    return calico.installed(manifest.parsed(text.encode(), "calico.yaml"), plan_of(LAB), SETTINGS, "NFT")


def environment(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the environment of Calico's node."""
    container = found[1]["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_the_manifest_gets_what_a_lab_needs() -> None:
    """No tunnels, a pool beside the lab's, forwarding pods; what was there otherwise stays as it was."""
    found = changed()
    assert environment(found) == {
        "CALICO_IPV4POOL_IPIP": "Never",
        "IP": "autodetect",
        "NODENAME": "",
        "CALICO_IPV4POOL_VXLAN": "Never",
        "CALICO_IPV4POOL_CIDR": "10.52.0.0/24",
        "IP_AUTODETECTION_METHOD": "kubernetes-internal-ip",
        "FELIX_IPTABLESBACKEND": "NFT",
    }
    text = found[0]["data"]["cni_network_config"]
    assert '"mtu": __CNI_MTU__' in text
    config = json.loads(text.replace("__CNI_MTU__", "1500"))
    assert config["plugins"][0]["container_settings"] == {"allow_ip_forwarding": True}
    assert config["plugins"][0]["nodename"] == "__KUBERNETES_NODE_NAME__"
    assert config["plugins"][1] == {"type": "portmap", "snat": True}
    assert all(one["metadata"]["labels"]["egresslab.lab"] == "copy" for one in found)


def test_what_was_read_is_left_alone() -> None:
    """The change makes other objects; the manifest that was read is as it was."""
    read = manifest.parsed(MANIFEST.encode(), "calico.yaml")
    before = deepcopy(read)
    calico.installed(read, plan_of(LAB), SETTINGS, "Auto")
    assert read == before


def test_the_images_of_a_manifest_are_known() -> None:
    """They are brought into the cluster beforehand: its nodes have no way to a registry."""
    assert calico.images(changed()) == ("quay.io/calico/cni:v3", "quay.io/calico/node:v3")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("name: calico-node, n", "name: canal, n", "has no DaemonSet 'calico-node'"),
        ("- name: calico-node", "- name: felix", "no container 'calico-node'"),
        ("cni_network_config: |-", "other: |-", "cni_network_config"),
        ('"type": "calico", "mtu"', '"type": "flannel", "mtu"', "no plugin of type 'calico'"),
        ("kind: DaemonSet", "kinds: DaemonSet", "is no Kubernetes object"),
        ("kind: ConfigMap", "kind: [", "no YAML"),
    ],
)
def test_a_manifest_of_another_form_is_refused(old: str, new: str, sentence: str) -> None:
    """What is not where it should be is named, before anything is applied."""
    assert old in MANIFEST
    with pytest.raises(StartError, match=sentence):
        changed(MANIFEST.replace(old, new))


def test_a_manifest_from_a_path_is_the_one_that_is_meant(tmp_path: Path) -> None:
    """With a checksum a file that differs is refused, with both sums; one that is missing is named."""
    file = tmp_path / "calico.yaml"
    file.write_text(MANIFEST, encoding="utf-8")
    right = hashlib.sha256(MANIFEST.encode()).hexdigest()
    assert len(manifest.objects_from(str(file), right)) == 2
    assert len(manifest.objects_from(str(file), "")) == 2
    with pytest.raises(StartError, match=f"its SHA-256 is {right}, wanted 00"):
        manifest.objects_from(str(file), "00")
    with pytest.raises(StartError, match=r"nowhere\.yaml: No such file"):
        manifest.objects_from(str(tmp_path / "nowhere.yaml"), "")


def test_a_manifest_from_a_url_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept by its checksum, without which no URL is used; what differs is not kept.

    Where none is pinned, the checksum of the first time holds from then on.
    """
    asked: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Serve the manifest."""
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MANIFEST.encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = HTTPServer(("127.0.0.1", 0), Site)
    serving = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        url = f"http://127.0.0.1:{site.server_address[1]}/calico.yaml"
        right = hashlib.sha256(MANIFEST.encode()).hexdigest()
        with pytest.raises(StartError, match="needs its SHA-256"):
            manifest.objects_from(url, "")
        with pytest.raises(StartError, match="is not the manifest that is meant"):
            manifest.objects_from(url, "11" * 32)
        first = manifest.objects_from(url, right)
        assert manifest.objects_from(url, right) == first
        assert len(asked) == 2
        told: list[str] = []
        assert manifest.first_sum(url, told.append) == manifest.first_sum(url, told.append) == right
        assert (len(asked), len(told), right in told[0]) == (3, 1, True)
    finally:
        site.shutdown()
        site.server_close()
        serving.join()
    with pytest.raises(StartError, match=r"cannot be fetched .*EGRESSLAB_CALICO"):
        manifest.objects_from(url, "22" * 32)


def test_the_range_of_pods_has_room_beside_the_labs_pools() -> None:
    """It holds every pool of the lab, and a free one for the cluster's own pods that nothing of the lab is in."""
    for lab in ("bookinfo-egress", "platform-bgp", "overlays"):
        plan = make_plan(load_lab(find_lab(lab)))
        every, free = calico.cluster_cidr(plan)
        pools = [pool.cidr for pool in plan.lab.cluster.pools.values()] if plan.lab.cluster else []
        assert pools
        assert all(pool.subnet_of(every) and not pool.overlaps(free) for pool in pools)
        assert free.subnet_of(every)
        assert not any(free.overlaps(network.cidr) for network in plan.lab.networks.values())


def test_no_room_is_said() -> None:
    """A lab whose pool takes all that there is cannot be a cluster's."""
    with pytest.raises(InputError, match="no /24 is free beside the pools"):
        calico.cluster_cidr(plan_of(LAB.replace("10.53.0.0/16", "32.0.0.0/8")))


def test_the_configuration_follows_the_plan() -> None:
    """One server, an agent for each further node, each labelled as the lab's node; ranges are the lab file's."""
    plan = plan_of(LAB)
    found = cluster_file.configuration(plan, "copy", "egresslab-copy-nodes", PINS, second=True)
    assert (found["servers"], found["agents"]) == (1, 1)
    assert found["network"] == "egresslab-copy-nodes"
    assert "subnet" not in found  # k3d refuses it together with a network
    k3s = found["options"]["k3s"]
    assert [entry["label"] for entry in k3s["nodeLabels"]] == [
        "egresslab.cluster-node=server-0",
        "egresslab.cluster-node=agent-0",
    ]
    words = [entry["arg"] for entry in k3s["extraArgs"]]
    assert {"--flannel-backend=none", "--service-cidr=10.235.0.0/16", "--cluster-cidr=10.52.0.0/15"} <= set(
        words
    )
    assert not [word for word in words if "cgroup" in word]
    first = cluster_file.configuration(plan, "copy", "n", PINS, second=False)["options"]["k3s"]["extraArgs"]
    assert "--kubelet-arg=fail-cgroupv1=false" in [entry["arg"] for entry in first]
    assert cluster_file.containers(plan, "copy") == {
        "server-0": "k3d-egresslab-copy-server-0",
        "agent-0": "k3d-egresslab-copy-agent-0",
    }


def test_a_name_that_k3d_refuses_is_refused_beforehand() -> None:
    """Names of clusters have at most 32 letters, ours among them."""
    with pytest.raises(InputError, match="at most 22 letters"):
        cluster_file.configuration(plan_of(LAB), "a" * 23, "n", PINS, second=True)


def test_docker_gives_away_the_upper_half() -> None:
    """The lower half of the cluster's network stays for the addresses that the plan counts from its beginning."""
    assert cluster_file.given_away(IPv4Network("172.19.0.0/16")) == IPv4Network("172.19.128.0/17")
