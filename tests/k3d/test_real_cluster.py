"""The first article's lab on a real cluster: k3d, Calico, pods with their sidecars; `make test-k3d` runs it.

It is no part of `make test`: it needs k3d, a Docker Engine and images. What is missing is an error, not a skip: who
runs this wants it to run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import docker
import pytest

from harness.drivers.k3d.real_cluster import ClusterLab, standing_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.shipped import find_lab

PROXY = "http://bigip-proxy-svc.bookinfo:3128"
SITE = "https://www.f5.com/"


def told(words: str) -> None:
    """Say what happens, as it does."""
    sys.stderr.write(f"{words}\n")


@pytest.fixture(scope="module")
def lab() -> Iterator[ClusterLab]:
    """Yield the lab, standing."""
    plan = make_plan(load_lab(find_lab("bookinfo-egress")))
    with standing_up(plan, "real", told) as found:
        yield found


def in_pod(lab: ClusterLab, namespace: str, pod: str, *argv: str) -> tuple[int, str]:
    """Run a command in a pod's app, by the kubectl of the cluster's first node; returns its status and output."""
    client = docker.from_env()
    try:
        server = client.containers.get(lab.containers["server-0"])
        code, output = server.exec_run(["kubectl", "exec", "-n", namespace, pod, "-c", "app", "--", *argv])
    finally:
        client.close()
    return int(code), output.decode(errors="replace")


def test_every_pod_has_its_own_address(lab: ClusterLab) -> None:
    """Calico gave each pod the address of the plan."""
    planned = {name: str(address) for name, address in lab.state.bindings.pods.items()}
    assert planned.items() <= lab.pods.items()


def test_pods_of_the_mesh_reach_each_other(lab: ClusterLab) -> None:
    """A service's name leads to its pods, through both sidecars."""
    code, output = in_pod(lab, "bookinfo", "traffic-generator", "curl", "-sS", "http://details:9080/")
    assert code == 0, output


def test_the_tenant_reaches_the_internet_by_the_proxy(lab: ClusterLab) -> None:
    """A pod of bookinfo is permitted, and the forward proxy sees the SNAT pool's address."""
    code, output = in_pod(lab, "bookinfo", "traffic-generator", "curl", "-sSk", "-x", PROXY, SITE)
    assert code == 0, output
    found = lab.outside.link("tinyproxy").call("collect", mark={}, kinds=["lines"])
    lines = [line for told in found["recorded"]["lines"].values() for _, line in told]
    assert any("10.4.0.211" in line for line in lines)


def test_another_tenant_is_reset(lab: ClusterLab) -> None:
    """A pod of another namespace is refused by its identity: curl ends with 56."""
    code, output = in_pod(lab, "sm-apigw-a", "nettools", "curl", "-sSk", "-x", PROXY, SITE)
    assert (code, "56" in output) == (56, True), output
