"""Lab -> Plan: intent, free of drivers and pure.

    lab.yaml -> Lab -> Plan -- a driver binds --> Bindings -> Runtime of each node -> the running lab

A plan says which nodes there are and where they belong; only a driver knows addresses (computed by the namespace
driver, observed on a cluster), so these are looked up in its Bindings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Literal

from harness import lookup
from harness.egress_ways import Shim, shims_of
from harness.identity import Certificates, Request
from harness.lab import Lab, Outside, Pod, Service, Workload, pods, services
from harness.route_checks import GATEWAYS

Placement = Literal["pod", "cluster-node", "outside"]
CLUSTER_DOMAIN = "cluster.local"
DNS_POD = "kube-system/kube-dns"
DNS_SERVICE = "kube-system/kube-dns"
KEY_LOG = "tls-secrets.log"
"""In each node's folder: what decrypts its TLS connections (draft-ietf-tls-keylogfile)."""


@dataclass(frozen=True)
class Node:
    """A place in the lab with an IP stack of its own.

    `kinds` are the plugs of harness/nodes that furnish it; `on` the networks it is attached to, with its declared
    address if it has one; `host` the cluster node that a pod runs on.
    """

    name: str
    kinds: tuple[str, ...]
    placement: Placement
    on: tuple[tuple[str, IPv4Address | None], ...] = ()
    host: str | None = None
    pod: Pod | None = None
    spec: Outside | Workload | None = None
    forwards: bool = False
    shims: tuple[Shim, ...] = ()

    @property
    def places(self) -> tuple[tuple[str, IPv4Address | None], ...]:
        """The networks on which it has an address, with the declared one: by interfaces of its own and by shims."""
        return (*self.on, *((shim.network, shim.address) for shim in self.shims))


@dataclass(frozen=True)
class Plan:
    """What is to stand, in the order of the lab file."""

    lab: Lab
    nodes: tuple[Node, ...]
    services: dict[str, Service]
    requests: tuple[Request, ...]

    def node(self, name: str) -> Node:
        """Return a node by name; raises KeyError."""
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def _by_kind(self) -> Mapping[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for kind in dict.fromkeys(node.kinds):
                found.setdefault(kind, []).append(node)
        return {kind: tuple(nodes) for kind, nodes in found.items()}

    def of_kind(self, kind: str) -> tuple[Node, ...]:
        """Return the nodes that a kind furnishes."""
        return self._by_kind.get(kind, ())

    @cached_property
    def cluster_nodes(self) -> tuple[Node, ...]:
        """The cluster's nodes."""
        return tuple(node for node in self.nodes if node.placement == "cluster-node")

    @cached_property
    def pods(self) -> tuple[Node, ...]:
        """The pods, the cluster's DNS among them."""
        return tuple(node for node in self.nodes if node.placement == "pod")


@dataclass(frozen=True)
class Bindings:
    """What a driver decided or observed: addresses, and where each node's files lie.

    `inside` are the addresses an egress proxy binds per SNAT pool before its node translates them; `second` those of
    pods' second interfaces. Where `logs_secrets`, programs write the secrets of their TLS connections down.
    `sixes` are the IPv6 addresses of whatever has one, by its IPv4 address.
    """

    addresses: dict[tuple[str, str], IPv4Address]
    pods: dict[str, IPv4Address]
    blocks: dict[str, tuple[IPv4Network, ...]]
    cluster_ips: dict[str, IPv4Address]
    inside: dict[tuple[str, str], IPv4Address]
    directory: str
    python: tuple[str, ...] = ("python3",)
    second: dict[str, IPv4Address] = field(default_factory=dict)
    logs_secrets: bool = False
    sixes: dict[IPv4Address, IPv6Address] = field(default_factory=dict)

    def folder(self, node: str) -> str:
        """Return the private folder of a node, where its files are written."""
        return f"{self.directory}/nodes/{node}"

    def key_log(self, node: str) -> str | None:
        """Return where a node's programs append the secrets of their TLS connections, in NSS's format, if they do."""
        return f"{self.folder(node)}/{KEY_LOG}" if self.logs_secrets else None

    def address(self, node: Node) -> IPv4Address:
        """Return a node's own address: a pod's, or the one on its first network."""
        if node.name in self.pods:
            return self.pods[node.name]
        return self.addresses[node.name, node.on[-1][0]]

    def all_addresses(self, node: Node) -> tuple[IPv4Address, ...]:
        """Return every address by which a node can be seen on the wire."""
        if node.name in self.pods:
            return (self.pods[node.name], *filter(None, (self.second.get(node.name),)))
        return tuple(self.addresses[node.name, network] for network, _ in node.on)

    def of_both_families(self, node: Node) -> tuple[IPv4Address | IPv6Address, ...]:
        """Return every address of a node, those of IPv6 behind those of IPv4."""
        own = self.all_addresses(node)
        return (*own, *(self.sixes[address] for address in own if address in self.sixes))


@dataclass(frozen=True)
class File:
    """A file of a node; its path is relative to the node's private folder.

    Where another content takes the place of a `live` one, programs that run keep running: they notice by themselves
    that a new file was renamed over the old.
    """

    path: str
    content: str
    mode: int = 0o644
    live: bool = False


@dataclass(frozen=True)
class Ready:
    """When a program is ready, as data.

    listens   something listens on TCP port `value` in the node
    log       a line of its output contains `value`
    admin     HTTP GET /ready on the unix socket `value` answers 200
    versions  Envoy, asked at the unix socket before the blank, names each of the comma-separated versions after it
              among those of its secrets and routes
    rereads   the BIRD whose control socket is at `value` has read its file again (`configure`)
    file      the file `value` up to a blank holds what follows it
    routes    the kernel's main table has each of the comma-separated prefixes in `value`, after the path of
              BIRD's control socket and a blank: BIRD is asked for its status at each look, since it computes
              its next timer late unless something wakes it (3.8 s to converge without, 0.8 s with)
    """

    by: Literal["listens", "log", "admin", "versions", "rereads", "file", "routes", "nothing"] = "nothing"
    value: str = ""


@dataclass(frozen=True)
class Program:
    """A program of a node, by symbolic name; `container` is what `exec -c` and `logs -c` call it.

    `capable` programs keep the sandbox's capabilities (routing daemons, proxies that set socket marks);
    `first` ones are started before the others (BIRD's sessions take the longest). `applied` says when what stands
    in its live files is in force; nothing where it looks at them before each use.
    """

    name: str
    argv: tuple[str, ...]
    ready: Ready = Ready()
    capable: bool = False
    first: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    applied: Ready = Ready()


@dataclass(frozen=True)
class Mirror:
    """A copy of all that passes a pod's port, sent to the node that has it by a tunnel under this VNI."""

    name: str
    pod: str
    vni: int
    tunnel: Literal["vxlan", "geneve"] = "vxlan"


@dataclass(frozen=True)
class Runtime:
    """All that one kind contributes to one node; a node's kinds are merged in order.

    `needs` names a capability that the driver must have, such as `external-proxy`: no node is made, one is there.
    """

    programs: tuple[Program, ...] = ()
    files: tuple[File, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    rules: str = ""
    addresses: tuple[IPv4Address, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    mirrors: tuple[Mirror, ...] = ()

    def merged(self, other: Runtime) -> Runtime:
        """Return both contributions as one."""
        return Runtime(
            self.programs + other.programs,
            self.files + other.files,
            self.sysctls + other.sysctls,
            self.rules + other.rules,
            self.addresses + other.addresses,
            self.extra | other.extra,
            self.needs or other.needs,
            self.mirrors + other.mirrors,
        )


def make_plan(lab: Lab, earlier: Plan | None = None) -> Plan:
    """Return the plan of a valid lab; pods that an earlier plan knows stay on their cluster node."""
    placed = {node.name: node.host for node in earlier.pods} if earlier else {}
    nodes: list[Node] = []
    declared = dict(services(lab))
    if lab.cluster is not None:
        hosts = tuple(lab.cluster.nodes)
        for name, attachment in lab.cluster.nodes.items():
            place = ((lab.cluster.network_of(name), attachment.address),)
            shims = shims_of(name, lab.cluster)
            nodes.append(Node(name, ("cluster-node",), "cluster-node", place, forwards=True, shims=shims))
        nodes.append(Node(DNS_POD, ("dns",), "pod", host=hosts[0]))
        declared[DNS_SERVICE] = Service(
            namespace="kube-system",
            port=53,
            selector="kube-dns",
            cluster_ip=lab.cluster.services_cidr.network_address + 10,
        )
        for index, pod in enumerate(pods(lab)):
            before = placed.get(pod.name)
            host = pod.spec.node or (before if before in hosts else None) or hosts[index % len(hosts)]
            beside = "sidecar" if pod.injected else pod.spec.runs if pod.spec.runs in GATEWAYS else None
            kinds = ("workload", beside) if beside else ("workload",)
            nodes.append(Node(pod.name, kinds, "pod", host=host, pod=pod, spec=pod.spec))
    for name, spec in lab.outside.items():
        on = tuple((network, attachment.address) for network, attachment in spec.on.items())
        forwards = bool(lookup.find("nodes", spec.kind).FORWARDS)
        nodes.append(Node(name, (spec.kind,), "outside", on, spec=spec, forwards=forwards))
    plan = Plan(lab, tuple(nodes), declared, ())
    requests = [
        request for node in nodes for kind in node.kinds for request in _plug(kind, "requests", node, plan)
    ]
    return Plan(lab, tuple(nodes), declared, tuple(requests))


def render(plan: Plan, bindings: Bindings, certificates: Certificates) -> dict[str, Runtime]:
    """Return what each node runs and holds, once addresses are known."""
    rendered: dict[str, Runtime] = {}
    for node in plan.nodes:
        runtime = Runtime()
        for kind in node.kinds:
            runtime = runtime.merged(lookup.find("nodes", kind).render(node, plan, bindings, certificates))
        rendered[node.name] = runtime
    return rendered


def certificates_of(plan: Plan, name: str) -> tuple[str, ...]:
    """Return the names of the certificates that a node asks for; raises KeyError for an unknown node."""
    node = plan.node(name)
    return tuple(request.name for kind in node.kinds for request in _plug(kind, "requests", node, plan))


def spiffe_id(plan: Plan, pod: Pod) -> str:
    """Return the identity the mesh gives a pod (SPIFFE ID in Istio's form: /ns/<namespace>/sa/<service account>)."""
    return f"spiffe://{plan.lab.mesh.trust_domain}/ns/{pod.namespace}/sa/{pod.service_account}"


def endpoints(plan: Plan, bindings: Bindings, service: Service) -> tuple[tuple[str, IPv4Address, int], ...]:
    """Return a service's endpoints as (node, address, port)."""
    found: list[tuple[str, IPv4Address, int]] = []
    if service.selector == "kube-dns":
        return ((DNS_POD, bindings.pods[DNS_POD], 53),)
    for node in plan.pods:
        pod = node.pod
        if pod and service.selector == pod.workload and pod.namespace == service.namespace and pod.spec.port:
            found.append((node.name, bindings.pods[node.name], pod.spec.port))
    for endpoint in service.endpoints:
        name, _, which = endpoint.rpartition(":")
        node = plan.node(name)
        listens = getattr(node.spec, "virtual_servers", {}).get(which)
        if listens is not None:
            address, _, port = listens.listen.rpartition(":")
            found.append((name, IPv4Address(address), int(port)))
        else:
            found.append((name, bindings.address(node), int(which)))
    return tuple(found)


def counter_name(prefix: str, name: str) -> str:
    """Return the nftables counter of a rule or pool, whose identifiers have no hyphens; a dot stands for `/`."""
    return f"{prefix}_{name}".replace("-", "_").replace(".", "_").replace("/", ".")


def _plug(kind: str, function: str, node: Node, plan: Plan) -> tuple[Request, ...]:
    found = getattr(lookup.find("nodes", kind), function, None)
    return tuple(found(node, plan)) if found else ()
