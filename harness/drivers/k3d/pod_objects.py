"""A node of the plan as a pod: its programs as containers, its files as a secret, its agent beside them. Pure.

What a container needs lies in memory that the pod's containers share, at the same paths as on the namespace driver:
the first init container copies programs and files there and, beside a sidecar, puts the pod's interception in force.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from harness.agent.folders import PRIVATE
from harness.drivers.k3d.image import CODE
from harness.drivers.k3d.objects import ON_NODE, WORKLOAD, Object, Settings, made, secret
from harness.route_checks import GATEWAY

if TYPE_CHECKING:
    from harness.plan import Bindings, File, Node, Program, Ready, Runtime

AGENT = "agent"
PREPARE = "prepare"
PAYLOAD = "payload"
RULES = "rules.nft"
ADDRESS = "cni.projectcalico.org/ipAddrs"
"""Calico's annotation with the address that a pod is to have (Calico, "Use a specific IP address with a pod")."""

_GIVEN = "/etc/egresslab"
_SHARED = {"name": "shared", "mountPath": PRIVATE}


def pod(  # noqa: PLR0913 - all that a pod is made of
    node: Node,
    runtime: Runtime,
    bindings: Bindings,
    settings: Settings,
    payload: bytes | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    service_account: str = "default",
    istio: bool = False,
) -> tuple[Object, Object]:
    """Return a pod, and the secret with its files; `payload` is what its agent is given.

    With `istio` the sidecar is Istio's, which its webhook adds.
    """
    namespace, _, name = node.name.partition("/")
    files = tuple(file for file in runtime.files if not file.path.startswith("etc/"))
    content = {key_of(file.path): file.content.encode() for file in files}
    if runtime.rules:
        content[RULES] = runtime.rules.encode()
    if payload is not None:
        content[PAYLOAD] = payload
    given = secret(f"{name}-files", namespace, content, settings)
    containers = [_container(program, node, settings) for program in runtime.programs]
    containers.append(agent(settings))
    spec: Object = {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": istio,
        "hostname": name,
        "nodeSelector": {ON_NODE: node.host},
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": False,
        "initContainers": [_prepare(node, files, bindings, settings, rules=bool(runtime.rules))],
        "containers": containers,
        "volumes": [
            {"name": "shared", "emptyDir": {"medium": "Memory"}},
            {"name": "given", "secret": {"secretName": f"{name}-files", "defaultMode": 0o400}},
        ],
    }
    if node.pod is None:  # of the cluster's DNS: it asks nobody
        spec["dnsPolicy"] = "Default"
    workload = node.pod.workload if node.pod else name
    injected = {"sidecar.istio.io/inject": str(istio).lower()}
    annotations = {ADDRESS: f'["{bindings.pods[node.name]}"]'}
    every = {**(labels or {}), WORKLOAD: workload, **injected}
    return (
        made("Pod", "v1", name, settings, namespace, labels=every, annotations=annotations, spec=spec),
        given,
    )


def key_of(path: str) -> str:
    """Return the key of a file in a secret, which has no folders (Secret: letters, digits, `-`, `_` and `.`)."""
    return path.replace("/", "__")


def capabilities(*, more: bool) -> Object:
    """Return the security context of a container: nothing, or what changes and watches the pod's own network."""
    added = {"add": ["NET_ADMIN", "NET_RAW"]} if more else {}
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], **added}}


def agent(settings: Settings) -> Object:
    """Return the container of the agent: it sends probes, and records what passes, in the pod's own network."""
    return {
        "name": AGENT,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", _AGENT],
        "env": [{"name": "PYTHONPATH", "value": CODE}],
        "volumeMounts": [dict(_SHARED)],
        "securityContext": capabilities(more=True),
    }


_AGENT = f"test -s {PRIVATE}/{PAYLOAD} || exec sleep infinity; exec python3 -S -m harness.agent.container"
"""Without a payload a pod is only looked at with kubectl."""


def _prepare(
    node: Node, files: tuple[File, ...], bindings: Bindings, settings: Settings, *, rules: bool
) -> Object:
    folder = bindings.folder(node.name)
    lines = ["set -e", f"cp -r {CODE}/harness/programs {PRIVATE}/", f"mkdir -p {shlex.quote(folder)}"]
    parents = sorted({file.path.rpartition("/")[0] for file in files} - {""})
    lines += [f"mkdir -p {shlex.quote(f'{folder}/{parent}')}" for parent in parents]
    for file in files:
        there = shlex.quote(f"{folder}/{file.path}")
        lines.append(f"cp -L {_GIVEN}/{key_of(file.path)} {there}; chmod {file.mode:o} {there}")
    lines.append(f"test ! -e {_GIVEN}/{PAYLOAD} || cp -L {_GIVEN}/{PAYLOAD} {PRIVATE}/{PAYLOAD}")
    if rules:
        lines.append(f"nft -f {_GIVEN}/{RULES}")
    return {
        "name": PREPARE,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", "\n".join(lines)],
        "volumeMounts": [dict(_SHARED), {"name": "given", "mountPath": _GIVEN, "readOnly": True}],
        "securityContext": capabilities(more=rules),
    }


def _container(program: Program, node: Node, settings: Settings) -> Object:
    container: Object = {
        "name": program.name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(program.argv),
        "volumeMounts": [dict(_SHARED)],
        "securityContext": capabilities(more=program.capable),
    }
    if program.environment:
        container["env"] = [{"name": name, "value": value} for name, value in program.environment]
    port = getattr(node.spec, "port", None)
    if GATEWAY in node.kinds and port:  # reached from outside at its own node's address
        container["ports"] = [{"containerPort": port, "hostPort": port}]
    if probe := next(_probes(program.ready, port), None):
        container["readinessProbe"] = {"exec": {"command": probe}, "periodSeconds": 1}
    return container


def _probes(ready: Ready, port: int | None) -> Iterator[list[str]]:
    """Yield how the kubelet learns that a program is ready: from inside, for a sidecar may refuse it from outside."""
    if ready.by == "admin":
        yield ["curl", "-fsS", "-o", "/dev/null", "--unix-socket", ready.value, "http://localhost/ready"]
    elif ready.by == "listens":
        yield ["nc", "-z", "127.0.0.1", ready.value]
    elif ready.by == "log" and port:
        yield ["nc", "-z", "127.0.0.1", str(port)]
