"""The route controller of each cluster node: what it is told, and its program."""

from __future__ import annotations

import hashlib
import json
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from harness.dual_stack import twin, twin_network
from harness.egress_ways import is_watched, ways_out
from harness.plan import File, Program, Ready, Runtime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.lab import Cluster
    from harness.plan import Bindings, Node, Plan

PROGRAM = "route-controller"
_KINDS = ("primary", "secondary")


def of_node(node: Node, plan: Plan, bindings: Bindings) -> Runtime:
    """Return a node's route controller, nothing where the lab has no way out by a gateway.

    What it is told stands in a live file: pods come and go under a controller that runs on.
    """
    cluster = plan.lab.cluster
    if cluster is None or cluster.egress is None:
        return Runtime()
    folder = bindings.folder(node.name)
    wanted = json.dumps(_state(node, plan, bindings, cluster), indent=1) + "\n"
    paths = {"state": f"{folder}/routes.json", "applied": f"{folder}/routes.applied"}
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    argv = (
        *bindings.python,
        f"{bindings.directory}/programs/route_controller.py",
        f"{folder}/{PROGRAM}.json",
    )
    applied = Ready("file", f"{paths['applied']} {digest}")
    program = Program(PROGRAM, argv, Ready("log", '"ready"'), capable=True, applied=applied)
    files = (File("routes.json", wanted, live=True), File(f"{PROGRAM}.json", json.dumps(paths)))
    return Runtime(programs=(program,), files=files)


def beside_workloads(plan: Plan, bindings: Bindings) -> dict[str, Any]:
    """Return what a state (harness/programs/route_policy.py) has besides its workloads: the same on every node.

    Raises ValueError where the lab has no way out by a gateway.
    """
    cluster = plan.lab.cluster
    egress = cluster.egress if cluster else None
    if cluster is None or egress is None:
        raise ValueError("the cluster has no way out by a gateway")
    gateway = plan.node(egress.gateway)
    ways = {
        kind: {"table": way.table, "via": str(bindings.addresses[gateway.name, way.network]), "dev": way.shim}
        for kind, way in ways_out(cluster)
    }
    networks = [*cluster.networks, *([egress.secondary.network] if egress.secondary else [])]
    direct = [str(block) for other in plan.cluster_nodes for block in bindings.blocks[other.name]]
    direct += [str(plan.lab.networks[network].cidr) for network in networks]
    return {
        "mode": egress.mode,
        "guard": egress.fault != "no-guard",
        "direct": [] if egress.fault == "no-direct-rules" else direct,
        **ways,
    }


def _state(node: Node, plan: Plan, bindings: Bindings, cluster: Cluster) -> dict[str, Any]:
    """Return the state in the form of harness/programs/route_policy.py."""
    watched = [
        pod
        for pod in plan.pods
        if pod.host == node.name and pod.pod is not None and is_watched(pod.pod, cluster)
    ]
    beside = beside_workloads(plan, bindings)
    six = _six(beside, watched, plan, bindings)
    return {
        **beside,
        "workloads": [
            {"name": pod.name, "primary": str(bindings.pods[pod.name])}
            | ({"secondary": str(bindings.second[pod.name])} if pod.name in bindings.second else {})
            for pod in watched
        ],
        **({"ipv6": six} if six.keys() & set(_KINDS) else {}),
    }


def _six(
    beside: Mapping[str, Any], watched: Sequence[Node], plan: Plan, bindings: Bindings
) -> dict[str, Any]:
    """Return the same for IPv6, as far as there is any: ranges, ways whose network has it, and pods."""
    vias = {kind: twin(IPv4Address(beside[kind]["via"]), plan.lab) for kind in _KINDS if kind in beside}
    ranges = (twin_network(IPv4Network(cidr), plan.lab) for cidr in beside["direct"])
    workloads = []
    for pod in watched:
        own = {"primary": bindings.pods[pod.name], "secondary": bindings.second.get(pod.name)}
        known = {kind: str(bindings.sixes[one]) for kind, one in own.items() if one in bindings.sixes}
        if any(vias.get(kind) is not None for kind in known):
            workloads.append({"name": pod.name} | known)
    return {
        "direct": [str(one) for one in ranges if one is not None],
        **{kind: {**beside[kind], "via": str(via)} for kind, via in vias.items() if via is not None},
        "workloads": workloads,
    }
