"""The cluster of a lab as k3d's configuration file (k3d.io/v1alpha5, Simple). Pure.

No flannel and no policies of k3s's own, no load balancer and none of k3s's extras: Calico is the network, and the lab
brings its own DNS. The network is there before the cluster, so that the plan's addresses on it stay free.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from harness.drivers.k3d.calico import cluster_cidr
from harness.drivers.k3d.engine import LAB
from harness.drivers.k3d.objects import ON_NODE, Object
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.plan import Plan

_EXTRAS = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server")
_MOST_NAME = 32
"""k3d refuses longer names of clusters."""


def cluster_name(lab: str) -> str:
    """Return what a lab's cluster is called; its containers are `k3d-<this>-server-0` and so on."""
    return f"egresslab-{lab}"


def filters(plan: Plan) -> dict[str, str]:
    """Return k3d's filter for each of the lab's cluster nodes: the first is the server, all others are agents."""
    names = [node.name for node in plan.cluster_nodes]
    return {name: "server:0" if index == 0 else f"agent:{index - 1}" for index, name in enumerate(names)}


def containers(plan: Plan, lab: str) -> dict[str, str]:
    """Return the container that is each of the lab's cluster nodes; Kubernetes calls the node the same."""
    found = filters(plan)
    return {name: f"k3d-{cluster_name(lab)}-{place.replace(':', '-')}" for name, place in found.items()}


def configuration(plan: Plan, lab: str, network: str, pins: Mapping[str, Any], *, second: bool) -> Object:
    """Return the configuration; `network` is Docker's name of the cluster's, `second` that cgroups are version 2.

    Raises InputError where the lab has no cluster, or a name that k3d refuses.
    """
    cluster = plan.lab.cluster
    if cluster is None:
        raise InputError(f"lab {lab!r} has no cluster")
    if len(cluster_name(lab)) > _MOST_NAME:
        most = _MOST_NAME - len(cluster_name(""))
        raise InputError(
            f"k3d takes names of at most {most} letters, and {lab!r} is longer; choose one by --name"
        )
    every, _ = cluster_cidr(plan)
    of_servers = [
        "--flannel-backend=none",
        "--disable-network-policy",
        f"--cluster-cidr={every}",
        f"--service-cidr={cluster.services_cidr}",
        f"--cluster-dns={cluster.services_cidr.network_address + 10}",
        f"--disable={','.join(_EXTRAS)}",
    ]
    of_all = [f"--pause-image={pins['pause']}"]
    if not second:  # kubelet 1.35 does not start on version 1 without
        of_all.append("--kubelet-arg=fail-cgroupv1=false")
    places = filters(plan)
    everywhere = ["server:*", *(["agent:*"] if len(places) > 1 else [])]
    return {
        "apiVersion": "k3d.io/v1alpha5",
        "kind": "Simple",
        "metadata": {"name": cluster_name(lab)},
        "servers": 1,
        "agents": len(places) - 1,
        "image": pins["image"],
        "network": network,
        "kubeAPI": {"hostIP": "127.0.0.1"},
        "options": {
            # k3d's own wait knows no reasons; ours follows the logs
            "k3d": {"wait": False, "disableLoadbalancer": True},
            "k3s": {
                "extraArgs": [
                    *({"arg": word, "nodeFilters": ["server:*"]} for word in of_servers),
                    *({"arg": word, "nodeFilters": everywhere} for word in of_all),
                ],
                "nodeLabels": [
                    {"label": f"{ON_NODE}={name}", "nodeFilters": [place]} for name, place in places.items()
                ],
            },
            "kubeconfig": {"updateDefaultKubeconfig": False, "switchCurrentContext": False},
            "runtime": {"labels": [{"label": f"{LAB}={lab}", "nodeFilters": everywhere}]},
        },
    }


def given_away(network: IPv4Network) -> IPv4Network:
    """Return the half of a network from which Docker chooses addresses; the other is the plan's."""
    *_, upper = network.subnets(prefixlen_diff=1)
    return upper
