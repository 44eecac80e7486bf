"""What must hold between the keys of a lab file: each check yields a place and what is wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from harness import (
    bgp_checks,
    egress_checks,
    istio_checks,
    lookup,
    overlay_checks,
    policy_checks,
    rotation_checks,
    route_checks,
)
from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.lab_model import Attachment, Cluster, Lab, Namespace, Service, Workload

Found = Iterator[tuple[tuple[str | int, ...], str]]

RESERVED_WORDS = ("any", rotation_checks.AUTHORITY, "default", "node", "pod", "sidecar", "snat")
"""What a scenario may say instead of a node's name."""

RESERVED_NETWORKS = {
    IPv4Network("0.0.0.0/8"): "'this network' (RFC 1122)",
    IPv4Network("100.64.0.0/16"): "the inside addresses of egress proxies",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local addresses",
    IPv4Network("224.0.0.0/3"): "multicast and reserved addresses",
}

SYSTEM_NAMESPACE = "kube-system"


def check(lab: Lab) -> Found:
    """Yield everything that is wrong between the keys of a lab."""
    yield from _names(lab)
    yield from _ranges(lab)
    yield from _attachments(lab)
    yield from _addresses(lab)
    if lab.cluster is None:
        yield from _without_cluster(lab)
    else:
        yield from _cluster(lab.cluster)
    for name, namespace in lab.namespaces.items():
        yield from _namespace(name, namespace, lab)
    for name, service in lab.services.items():
        yield from _service(name, service, lab)
    yield from _mtls(lab)
    yield from route_checks.check(lab)
    for module in (rotation_checks, istio_checks, bgp_checks, egress_checks, overlay_checks, policy_checks):
        yield from module.check(lab)
    for name, spec in lab.outside.items():
        plug_check = getattr(lookup.find("nodes", spec.kind), "check", None)
        for place, message in plug_check(name, spec, lab) if plug_check else ():
            yield ("outside", name, *place), message


def snat_pools(lab: Lab) -> dict[str, str]:
    """Return the name of each SNAT pool of the lab, and the outside node that holds it."""
    return {pool: name for name, spec in lab.outside.items() for pool in getattr(spec, "snat_pools", {})}


def _names(lab: Lab) -> Found:
    seen: dict[str, str] = {}
    nodes = lab.cluster.nodes if lab.cluster else ()
    for what, place, names in (
        ("a network", ("networks",), lab.networks),
        ("a cluster node", ("cluster", "nodes"), nodes),
        ("an outside node", ("outside",), lab.outside),
    ):
        for name in names:
            if name in RESERVED_WORDS:
                yield (*place, name), f"{name!r} has a meaning of its own in scenarios; choose another name"
            if name in seen:
                yield (*place, name), f"{name!r} is {seen[name]} already; names are unique in a lab"
            seen.setdefault(name, what)


def _ranges(lab: Lab) -> Found:
    ranges: list[tuple[tuple[str | int, ...], str, IPv4Network]] = [
        (("networks", name, "cidr"), f"network {name!r}", network.cidr)
        for name, network in lab.networks.items()
    ]
    if lab.cluster is not None:
        for name, pool in lab.cluster.pools.items():
            ranges.append((("cluster", "pools", name, "cidr"), f"pool {name!r}", pool.cidr))
        ranges.append((("cluster", "services_cidr"), "services_cidr", lab.cluster.services_cidr))
    for place, what, cidr in ranges:
        for reserved, use in RESERVED_NETWORKS.items():
            if cidr.overlaps(reserved):
                yield place, f"{what} ({cidr}) overlaps {reserved}, which is for {use}"
    order = sorted(range(len(ranges)), key=lambda index: (ranges[index][2], index))
    widest = order[0]
    for index in order[1:]:  # ranges nest or are apart, so that the widest before is the one to compare with
        first, second = sorted((widest, index))
        place, what, cidr = ranges[second]
        _, other, taken = ranges[first]
        if cidr.overlaps(taken):
            yield place, f"{what} ({cidr}) overlaps {other} ({taken})"
        else:
            widest = index


def _all_attachments(lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str, str, Attachment]]:
    """Yield the place, node, network and attachment of each node that is on a network."""
    if lab.cluster is not None:
        for name, placed in lab.cluster.nodes.items():
            yield ("cluster", "nodes", name), name, lab.cluster.network_of(name), placed
    for name, spec in lab.outside.items():
        for network, attachment in spec.on.items():
            yield ("outside", name, "on", network), name, network, attachment


def _attachments(lab: Lab) -> Found:
    if lab.cluster is not None and lab.cluster.network not in lab.networks:
        known = nearest(lab.cluster.network, list(lab.networks))
        yield ("cluster", "network"), f"unknown network {lab.cluster.network!r}; {known}"
    for place, _, network, attachment in _all_attachments(lab):
        if network not in lab.networks:
            if place[0] == "outside" or getattr(attachment, "network", None) is not None:
                key = place if place[0] == "outside" else (*place, "network")
                yield key, f"unknown network {network!r}; {nearest(network, list(lab.networks))}"
        elif attachment.address is not None:
            cidr = lab.networks[network].cidr
            if attachment.address not in cidr:
                yield (*place, "address"), f"{attachment.address} is outside network {network!r} ({cidr})"
            elif attachment.address in {cidr.network_address, cidr.broadcast_address}:
                yield (
                    (*place, "address"),
                    f"{attachment.address} is no host's address in {network!r} ({cidr})",
                )


def _addresses(lab: Lab) -> Found:
    """Complain about an address that two nodes claim; a node may use its own again, to listen on it."""
    owners: dict[IPv4Address, str] = {}
    claims = [
        ((*place, "address"), repr(name), attachment.address)
        for place, name, _, attachment in _all_attachments(lab)
        if attachment.address is not None
    ]
    for name, spec in lab.outside.items():
        plug_claims = getattr(lookup.find("nodes", spec.kind), "claims", None)
        for place, address in plug_claims(spec) if plug_claims else ():
            claims.append((("outside", name, *place), repr(name), address))
    for name, service in lab.services.items():
        if service.cluster_ip is not None:
            claims.append((("services", name, "cluster_ip"), f"service {name!r}", service.cluster_ip))
    claims += egress_checks.claims(lab)
    for place, owner, address in claims:
        if owners.setdefault(address, owner) != owner:
            yield place, f"{address} is the address of {owners[address]} already"


def _without_cluster(lab: Lab) -> Found:
    for key, entries in (("namespaces", lab.namespaces), ("services", lab.services)):
        if entries:
            yield (key,), f"'{key}' need a cluster, and the lab has no 'cluster'"


def _cluster(cluster: Cluster) -> Found:
    for name, pool in cluster.pools.items():
        if pool.block < pool.cidr.prefixlen:
            yield (
                ("cluster", "pools", name),
                f"pool {name!r} ({pool.cidr}) is smaller than one block (/{pool.block})",
            )
    first = next(iter(cluster.pools))
    pool = cluster.pools[first]
    blocks = 2 ** max(0, pool.block - pool.cidr.prefixlen)
    if pool.block >= pool.cidr.prefixlen and blocks < len(cluster.nodes):
        message = (
            f"pool {first!r}: {len(cluster.nodes)} nodes need a block (/{pool.block}) each; it has {blocks}"
        )
        yield ("cluster", "pools", first), message


def _namespace(name: str, namespace: Namespace, lab: Lab) -> Found:
    place = ("namespaces", name)
    if name == SYSTEM_NAMESPACE:
        yield place, f"{name!r} is the cluster's own namespace; choose another name"
    pools = snat_pools(lab)
    if namespace.snat is not None and namespace.snat not in pools:
        yield (
            (*place, "snat"),
            f"unknown SNAT pool {namespace.snat!r}; {nearest(namespace.snat, list(pools))}",
        )
    if namespace.inject and lab.mesh.provider == "none":
        yield (*place, "inject"), "sidecars need a mesh, and 'provider' is none"
    pods: dict[str, str] = {}
    for workload, spec in namespace.workloads.items():
        for below, message in _workload(spec, lab):
            yield (*place, "workloads", workload, *below), message
        for index, pod in enumerate(f"{workload}-{v}" for v in spec.versions):
            if pod in pods:
                clash = f"a pod of workload {pods[pod]!r} is called {pod!r} already"
                yield (*place, "workloads", workload, "versions", index), clash
            pods[pod] = workload
        if not spec.versions:
            if workload in pods:
                yield (
                    (*place, "workloads", workload),
                    f"a pod of workload {pods[workload]!r} is called {workload!r} already",
                )
            pods[workload] = workload


def _workload(spec: Workload, lab: Lab) -> Found:
    if spec.runs != "client" and spec.port is None:
        yield (), f"a workload that runs {spec.runs} needs a 'port'"
    if spec.runs == "database" and spec.database is None:
        yield (), "a workload that runs database needs a 'database': its schema and users"
    if spec.runs != "database" and spec.database is not None:
        yield ("database",), f"'database' is for a workload that runs database; this one runs {spec.runs}"
    if spec.inject and lab.mesh.provider == "none":
        yield ("inject",), "sidecars need a mesh, and 'provider' is none"
    if spec.runs == "egress-gateway":
        yield from _egress_gateway(spec, lab)
    elif spec.egress is not None:
        yield ("egress",), f"'egress' is for a workload that runs egress-gateway; this one runs {spec.runs}"
    if spec.node is not None and lab.cluster is not None and spec.node not in lab.cluster.nodes:
        yield ("node",), f"unknown cluster node {spec.node!r}; {nearest(spec.node, list(lab.cluster.nodes))}"


def _egress_gateway(spec: Workload, lab: Lab) -> Found:
    if spec.inject:
        yield ("inject",), "an egress gateway is an Envoy itself, and has no sidecar"
    if lab.mesh.provider == "none":
        yield ("runs",), "an egress gateway needs a mesh, and 'provider' is none"
    if spec.egress is None:
        yield (), "a workload that runs egress-gateway needs an 'egress' that says where it goes on to"
        return
    target, _, port = spec.egress.forward_to.rpartition(":")
    if target not in lab.outside:
        known = nearest(target, list(lab.outside))
        yield ("egress", "forward_to"), f"unknown outside node {target!r}; {known}"
    elif not 1 <= int(port) <= 65535:
        yield ("egress", "forward_to"), f"port {port} is out of range; a port is 1 to 65535"


def _service(name: str, service: Service, lab: Lab) -> Found:
    place = ("services", name)
    if service.selector is None and not service.endpoints:
        yield place, f"service {name!r} needs a 'selector' or 'endpoints'"
    if service.selector is not None and service.endpoints:
        yield place, f"service {name!r} cannot have both 'selector' and 'endpoints'"
    if service.namespace not in lab.namespaces:
        known = nearest(service.namespace, list(lab.namespaces))
        yield (*place, "namespace"), f"unknown namespace {service.namespace!r}; {known}"
    elif service.selector is not None:
        message = _selector(service.selector, service.namespace, lab)
        if message:
            yield (*place, "selector"), message
    for index, endpoint in enumerate(service.endpoints):
        message = _endpoint(endpoint, lab)
        if message:
            yield (*place, "endpoints", index), message
    if service.cluster_ip is not None and lab.cluster is not None:
        message = _cluster_ip(service.cluster_ip, lab.cluster.services_cidr)
        if message:
            yield (*place, "cluster_ip"), message


def _selector(selector: str, namespace: str, lab: Lab) -> str | None:
    workloads = lab.namespaces[namespace].workloads
    if selector not in workloads:
        return f"unknown workload {selector!r} in {namespace!r}; {nearest(selector, list(workloads))}"
    if workloads[selector].port is None:
        return f"workload {selector!r} has no 'port' that a service could reach"
    return None


def _cluster_ip(address: IPv4Address, cidr: IPv4Network) -> str | None:
    if address not in cidr:
        return f"{address} is outside services_cidr ({cidr})"
    if int(address) - int(cidr.network_address) in {0, 1, 10}:
        return f"{address} is kept for the cluster's own services"
    return None


def _endpoint(endpoint: str, lab: Lab) -> str | None:
    node, colon, which = endpoint.rpartition(":")
    if not colon:
        return f"{endpoint!r} is not an endpoint such as bigip:bookinfo-proxy or www.example.com:443"
    if node not in lab.outside:
        return f"unknown outside node {node!r}; {nearest(node, list(lab.outside))}"
    servers = list(getattr(lab.outside[node], "virtual_servers", {}))
    if which in servers or (which.isascii() and which.isdigit() and 1 <= int(which[:6]) <= 65535):
        return None
    return f"{which!r} is neither a port nor a virtual server of {node!r}; {nearest(which, servers)}"


def _mtls(lab: Lab) -> Found:
    policy = lab.mesh.mtls
    for word, key in (
        *(("overrides", key) for key in policy.overrides),
        *(("clients", key) for key in policy.clients),
    ):
        if message := unknown_tenant(key, lab):
            yield ("mesh", "mtls", word, key), message


def unknown_tenant(whose: str, lab: Lab) -> str | None:
    """Return what is wrong with the name of a namespace or of a `namespace/workload`, None for nothing."""
    name, slash, workload = whose.partition("/")
    namespace = lab.namespaces.get(name)
    if namespace is None:
        return f"unknown namespace {name!r}; {nearest(name, list(lab.namespaces))}"
    if slash and workload not in namespace.workloads:
        return f"unknown workload {workload!r} in {name!r}; {nearest(workload, list(namespace.workloads))}"
    return None
