"""What runs on the cluster's nodes themselves: the agent of each, and the route controller. Pure.

A node's agent shares the node's own network: it records what passes there, and tells the kernel the way to the lab's
other networks, which nobody else does in a cluster.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from harness import policy_routing
from harness.agent.folders import PRIVATE
from harness.agent.lower import next_hop
from harness.drivers.k3d.image import CODE
from harness.drivers.k3d.objects import ON_NODE, SYSTEM, Object, Settings, made, secret
from harness.drivers.k3d.pod_objects import AGENT, PAYLOAD, PREPARE, agent, capabilities

if TYPE_CHECKING:
    from harness.plan import Bindings, Node, Plan

CONTROLLER = "route-controller"
_GIVEN = "/etc/egresslab"
_SHARED = {"name": "shared", "mountPath": PRIVATE}
_MACVLAN = 'ip link add {} link "$card" type macvlan mode bridge'
_EVERYWHERE = [{"operator": "Exists"}]


def agent_pod(node: str) -> str:
    """Return what the pod of a cluster node's agent is called."""
    return f"{AGENT}-{node.replace('.', '-')}"


def resources(
    plan: Plan, bindings: Bindings, settings: Settings, payloads: Mapping[str, bytes]
) -> Iterator[Object]:
    """Yield the agents of the cluster's nodes, and the route controller where the lab has a way out by a gateway."""
    if plan.lab.cluster is None:
        return
    for node in plan.cluster_nodes:
        yield from _agent(node, plan, bindings, settings, payloads.get(node.name))
    if plan.lab.cluster.egress is not None:
        yield from _controller(plan, bindings, settings)


def ways(node: Node, plan: Plan, bindings: Bindings) -> Iterator[tuple[str, str]]:
    """Yield the way to each of the lab's networks that a cluster node is not on, as (destination, next hop)."""
    attached = {network for network, _ in node.on}
    for name, network in plan.lab.networks.items():
        if name in attached:
            continue
        found = next_hop(plan, attached, name)
        if found is not None:
            router, on = found
            yield str(network.cidr), str(bindings.addresses[router.name, on])


def _agent(
    node: Node, plan: Plan, bindings: Bindings, settings: Settings, payload: bytes | None
) -> Iterator[Object]:
    name = agent_pod(node.name)
    lines = ["set -e"]
    lines += [f"ip route replace {cidr} via {gateway}" for cidr, gateway in ways(node, plan, bindings)]
    for shim in node.shims:
        prefix = plan.lab.networks[shim.network].cidr.prefixlen
        address = bindings.addresses[node.name, shim.network]
        lines += [
            # the card was put on this network with an address by which it is found, and is to have none
            f"card=$(ip -o -4 addr show to {plan.lab.networks[shim.network].cidr} | awk '{{print $2; exit}}')",
            f"ip link show {shlex.quote(shim.name)} >/dev/null 2>&1 || "
            + _MACVLAN.format(shlex.quote(shim.name)),
            f'ip addr flush dev "$card"; ip addr replace {address}/{prefix} dev {shlex.quote(shim.name)}',
            f"ip link set {shlex.quote(shim.name)} up",
        ]
    lines.append(f"test ! -e {_GIVEN}/{PAYLOAD} || cp -L {_GIVEN}/{PAYLOAD} {PRIVATE}/{PAYLOAD}")
    prepare = {
        "name": PREPARE,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", "\n".join(lines)],
        "volumeMounts": [dict(_SHARED), {"name": "given", "mountPath": _GIVEN, "readOnly": True}],
        "securityContext": capabilities(more=True),
    }
    yield secret(f"{name}-files", SYSTEM, {PAYLOAD: payload} if payload else {}, settings)
    spec: Object = {
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "nodeSelector": {ON_NODE: node.name},
        "tolerations": _EVERYWHERE,
        "terminationGracePeriodSeconds": 1,
        "initContainers": [prepare],
        "containers": [agent(settings)],
        "volumes": [
            {"name": "shared", "emptyDir": {"medium": "Memory"}},
            {"name": "given", "secret": {"secretName": f"{name}-files", "defaultMode": 0o400}},
        ],
    }
    yield made("Pod", "v1", name, settings, SYSTEM, spec=spec)


def _controller(plan: Plan, bindings: Bindings, settings: Settings) -> Iterator[Object]:
    """Yield the route controller: one on each node, which watches the node's pods by the API and no others."""
    yield made("ServiceAccount", "v1", CONTROLLER, settings, SYSTEM)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    rbac = "rbac.authorization.k8s.io/v1"
    name = f"egresslab-{CONTROLLER}"
    yield made("ClusterRole", rbac, name, settings, rules=rules)
    yield made(
        "ClusterRoleBinding",
        rbac,
        name,
        settings,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": SYSTEM}],
    )
    watch = json.dumps(watched(plan, bindings), indent=1)
    yield made(
        "ConfigMap", "v1", CONTROLLER, settings, SYSTEM, data={"watch.json": watch, "routes.json": _FILES}
    )
    labels = {"app": CONTROLLER}
    code = {"name": "PYTHONPATH", "value": CODE}
    here = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    mounts = [dict(_SHARED), {"name": "given", "mountPath": _GIVEN, "readOnly": True}]
    common: Object = {"image": settings.image, "imagePullPolicy": "IfNotPresent", "volumeMounts": mounts}
    python = ["python3", "-S", "-m"]
    controller = [*python, "harness.programs.route_controller", f"{_GIVEN}/routes.json"]
    containers = [
        {
            "name": "pod-watch",
            "command": [*python, "harness.programs.pod_watch", f"{_GIVEN}/watch.json"],
            "env": [code, here],
            "securityContext": capabilities(more=False),
            **common,
        },
        {
            "name": CONTROLLER,
            # the first state is there as soon as the API was asked once
            "command": [
                "/bin/sh",
                "-c",
                f"until test -e {_STATE}; do sleep 0.2; done; exec {' '.join(controller)}",
            ],
            "env": [code],
            "securityContext": capabilities(more=True),
            **common,
        },
    ]
    template: Object = {
        "metadata": {"labels": {**labels, **settings.labels}},
        "spec": {
            "hostNetwork": True,
            "serviceAccountName": CONTROLLER,
            "tolerations": _EVERYWHERE,
            "containers": containers,
            "volumes": [
                {"name": "shared", "emptyDir": {"medium": "Memory"}},
                {"name": "given", "configMap": {"name": CONTROLLER}},
            ],
        },
    }
    spec = {"selector": {"matchLabels": labels}, "template": template}
    yield made("DaemonSet", "apps/v1", CONTROLLER, settings, SYSTEM, spec=spec)


_STATE = f"{PRIVATE}/routes.json"
_FILES = json.dumps({"state": _STATE, "applied": f"{PRIVATE}/routes.applied"})


def watched(plan: Plan, bindings: Bindings) -> Object:
    """Return the configuration of harness/programs/pod_watch.py: whom to watch, and what a state has besides pods."""
    cluster = plan.lab.cluster
    if cluster is None or cluster.egress is None:
        raise ValueError("the cluster has no way out by a gateway")
    selector = cluster.egress.pods
    every = policy_routing.beside_workloads(plan, bindings)
    return {
        "namespaces": list(cluster.egress.watch) or list(plan.lab.namespaces),
        "selector": selector.model_dump(mode="json", by_alias=True) if selector else {},
        "state": every,
        "write": _STATE,
    }
