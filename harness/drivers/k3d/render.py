"""Plan and addresses -> Kubernetes objects: what the cluster's half of a lab comes to, as plain data. Pure.

In the order in which they are to be applied. What only the cluster can do for a lab, and no object of this module
brings, is a capability with a name: `missing` says which of them a lab needs, and why they are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.drivers.k3d import calico, istio, node_objects
from harness.drivers.k3d.objects import SYSTEM, WORKLOAD, Object, Settings, made
from harness.drivers.k3d.pod_objects import pod
from harness.plan import DNS_POD, DNS_SERVICE, endpoints, render

if TYPE_CHECKING:
    from harness.identity import Certificates
    from harness.lab import Service
    from harness.plan import Bindings, Plan

_DNS = {"k8s-app": "kube-dns"}
_NO_PAYLOADS: Mapping[str, bytes] = MappingProxyType({})
_PRIVILEGED = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}


def objects(
    plan: Plan,
    bindings: Bindings,
    certificates: Certificates,
    settings: Settings,
    payloads: Mapping[str, bytes] = _NO_PAYLOADS,
) -> tuple[Object, ...]:
    """Return every object of a lab in the cluster; `payloads` are what agents are given, by node."""
    return (
        *_namespaces(plan, settings),
        *calico.resources(plan, bindings, settings),
        *istio.resources(plan, certificates, settings),
        *_accounts(plan, settings),
        *_policies(plan, settings),
        *_services(plan, bindings, settings),
        *node_objects.resources(plan, bindings, settings, payloads),
        *_pods(plan, bindings, certificates, settings, payloads),
    )


def missing(plan: Plan) -> dict[str, str]:
    """Return the capabilities that a lab needs and a cluster of this driver does not have, each with the reason."""
    found: dict[str, str] = {}
    for node in plan.pods:
        if node.pod is not None and node.pod.spec.net1 is not None:
            found["second-interface"] = (
                f"{node.name} has a second interface, for which a cluster needs Multus and a "
                "NetworkAttachmentDefinition; this driver brings neither"
            )
    for node in plan.nodes:
        if getattr(node.spec, "pods", None) and "capture-host" in node.kinds:
            found["mirrors"] = (
                f"{node.name} gets copies of what passes pods' ports, and this driver makes none on nodes of a cluster"
            )
    cluster = plan.lab.cluster
    if cluster is not None and len(cluster.networks) > 1:
        found["nodes-on-several-networks"] = (
            "the cluster's nodes are on several networks, and k3d puts all of its nodes on one"
        )
    return found


def _namespaces(plan: Plan, settings: Settings) -> Iterator[Object]:
    yield made("Namespace", "v1", SYSTEM, settings, labels=_PRIVILEGED)
    for name, tenant in plan.lab.namespaces.items():
        yield made("Namespace", "v1", name, settings, labels={**tenant.labels, **_PRIVILEGED})


def _accounts(plan: Plan, settings: Settings) -> Iterator[Object]:
    """Yield the service accounts that workloads name; each namespace has `default` by itself."""
    wanted = dict.fromkeys(
        (node.pod.namespace, node.pod.service_account) for node in plan.pods if node.pod is not None
    )
    for namespace, name in wanted:
        if name != "default":
            yield made("ServiceAccount", "v1", name, settings, namespace)


def _policies(plan: Plan, settings: Settings) -> Iterator[Object]:
    """Yield the lab file's policies, which are in Kubernetes' own fields."""
    for namespace, tenant in plan.lab.namespaces.items():
        for name, policy in tenant.network_policies.items():
            spec: dict[str, Any] = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
            spec["policyTypes"] = list(policy.directions)
            yield made("NetworkPolicy", "networking.k8s.io/v1", name, settings, namespace, spec=spec)


def _services(plan: Plan, bindings: Bindings, settings: Settings) -> Iterator[Object]:
    for name, service in plan.services.items():
        namespace, _, short = name.partition("/")
        protocols = ("UDP", "TCP") if name == DNS_SERVICE else ("TCP",)
        spec: Object = {
            "clusterIP": str(bindings.cluster_ips[name]),
            "ports": [
                {
                    "name": f"{protocol.lower()}-{service.port}",
                    "protocol": protocol,
                    "port": service.port,
                    "targetPort": _target(name, service, plan),
                }
                for protocol in protocols
            ],
        }
        if service.selector is not None:
            spec["selector"] = _DNS if name == DNS_SERVICE else {WORKLOAD: service.selector}
        yield made("Service", "v1", short, settings, namespace, labels=service.labels, spec=spec)
        if service.selector is None:
            yield from _slices(name, service, plan, bindings, settings)


def _target(name: str, service: Service, plan: Plan) -> int:
    ports = [
        node.pod.spec.port
        for node in plan.pods
        if node.pod and node.pod.workload == service.selector and node.pod.namespace == service.namespace
    ]
    found = next((port for port in ports if port), None)
    return found if found and name != DNS_SERVICE else service.port


def _slices(
    name: str, service: Service, plan: Plan, bindings: Bindings, settings: Settings
) -> Iterator[Object]:
    """Yield the addresses of a service without a selector, by port (Kubernetes, "Services without selectors")."""
    namespace, _, short = name.partition("/")
    by_port: dict[int, list[str]] = {}
    for _, address, port in endpoints(plan, bindings, service):
        by_port.setdefault(port, []).append(str(address))
    for port, addresses in by_port.items():
        yield made(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            f"{short}-{port}",
            settings,
            namespace,
            labels={"kubernetes.io/service-name": short},
            addressType="IPv4",
            ports=[{"name": f"tcp-{service.port}", "protocol": "TCP", "port": port}],
            endpoints=[{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        )


def _pods(
    plan: Plan,
    bindings: Bindings,
    certificates: Certificates,
    settings: Settings,
    payloads: Mapping[str, bytes],
) -> Iterator[Object]:
    runtimes = render(plan, bindings, certificates)
    for node in plan.pods:
        labels = dict(node.pod.labels) if node.pod else _DNS if node.name == DNS_POD else {}
        made_pod, files = pod(
            node,
            runtimes[node.name],
            bindings,
            settings,
            payloads.get(node.name),
            labels,
            service_account=node.pod.service_account if node.pod else "default",
            istio=istio.injects(node, plan),
        )
        yield files
        yield made_pod
