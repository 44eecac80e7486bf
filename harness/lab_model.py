"""The models of the lab file: what may stand in it, key by key. Frozen; the JSON schema comes from here.

Checks across keys (names that must exist, addresses that must fit) are in harness/lab_checks.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness import lookup
from harness.egress_model import Egress, Holds, SecondInterface
from harness.entry import Entry
from harness.lab_words import (
    Address,
    Cidr,
    Cidr6,
    Duration,
    Flag,
    Form,
    Label,
    Labels,
    Line,
    Lines,
    Mtu,
    Name,
    Names,
    Port,
    SpiffeId,
    Word,
    shown,
)
from harness.labels import PodLabels
from harness.policy_model import NetworkPolicy
from harness.pool_model import Pool


def _attachments(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    for index, name in enumerate(value):
        if not isinstance(name, str):
            raise ValueError(f"{shown(name)} is not a name; write a list of names, or a mapping of names")  # noqa: TRY004 - pydantic collects ValueError only
        if name in value[:index]:
            raise ValueError(f"{shown(name)} is written twice")
    return dict.fromkeys(value)


Mtls = Literal["strict", "permissive", "disable"]
ClientTls = Literal["istio_mutual", "disable"]
SERVING = ("http", "database")
"""What a workload can run that has a service of the workload's name."""


class Network(Entry):
    """One layer-2 segment; `mtu` is the longest IP packet that its switch passes on."""

    cidr: Cidr
    cidr6: Cidr6 | None = None
    mtu: Mtu = 1500


class Attachment(Entry):
    """A node's place on a network; without an address the next free one is assigned, without an MTU the network's."""

    address: Address | None = None
    mtu: Mtu | None = None


Attachments = Annotated[
    dict[Name, Attachment],
    Field(min_length=1),
    BeforeValidator(_attachments, json_schema_input_type=dict[Name, Attachment] | list[Name]),
]


class ClusterNode(Attachment):
    """A cluster node's place: on the cluster's network, unless it names another."""

    network: Name | None = None


ClusterNodes = Annotated[
    dict[Name, ClusterNode],
    Field(min_length=1),
    BeforeValidator(_attachments, json_schema_input_type=dict[Name, ClusterNode] | list[Name]),
]


Asn = Annotated[int, Field(ge=1, le=4294967294, strict=True)]
"""The number of an autonomous system (RFC 6793, less the two that RFC 7300 and RFC 7607 reserve)."""


class Bfd(Entry):
    """Bidirectional forwarding detection (RFC 5880): a session is down when so many packets in a row are missing."""

    interval: Duration = "100ms"
    multiplier: Annotated[int, Field(ge=1, le=255, strict=True)] = 3


class Peer(Entry):
    """An outside node as BGP peer of every cluster node, as Calico's BGPPeer without a selector.

    `graceful_restart` is RFC 4724's restart time, `0s` for none; `hold_time` RFC 4271's.
    """

    node: Name
    asn: Asn | None = None
    graceful_restart: Duration = "120s"
    hold_time: Duration = "240s"
    bfd: Bfd | None = None


class Bgp(Entry):
    """BGP among the cluster's nodes (BIRD 2, as Calico runs it); `mesh` is the full node-to-node mesh."""

    asn: Asn = 64512
    mesh: Flag = True
    peers: dict[Name, Peer] = Field(default_factory=dict)


class Cluster(Entry):
    """The cluster's nodes, address pools and routing."""

    nodes: ClusterNodes
    network: Name = "nodes"
    pools: Annotated[dict[Name, Pool], Field(min_length=1)]
    services_cidr: Cidr
    bgp: Bgp | None = None
    egress: Egress | None = None

    def network_of(self, node: str) -> str:
        """Return the network that a cluster node is on; raises KeyError."""
        return self.nodes[node].network or self.network

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that the cluster's nodes are on, its own first."""
        return tuple(dict.fromkeys((self.network, *map(self.network_of, self.nodes))))


class Authority(Entry):
    """The common names of the organisation's root and intermediate certificate authorities."""

    root: Line = "Organisation Root CA"
    intermediate: Line = "Organisation Mesh CA"


class MtlsPolicy(Entry):
    """What the mesh's servers accept, and what its clients send; by namespace or `namespace/workload`.

    The words are Istio's: PeerAuthentication's modes, and DestinationRule's TLS modes. A client that is not named
    sends mutual TLS to whoever accepts it (auto mTLS). `detection_timeout` is how long a permissive server waits for
    a client's first bytes before it takes the connection for plain text (MeshConfig protocolDetectionTimeout; 0s:
    without end, Istio's default).
    """

    default: Mtls = "permissive"
    overrides: dict[Line, Mtls] = Field(default_factory=dict)
    clients: dict[Line, ClientTls] = Field(default_factory=dict)
    detection_timeout: Duration = "0s"


class Certificates(Entry):
    """Whether certificates may change while programs run; watching them costs each sidecar at its start."""

    rotate: Flag = False


class Mesh(Entry):
    """Who issues identities and how traffic is intercepted: sidecars of ours, or those of an Istio that is there."""

    provider: Literal["builtin", "istio", "none"] = "builtin"
    trust_domain: Name = "cluster.local"
    ca: Authority = Authority()
    certificates: Certificates = Certificates()
    mtls: MtlsPolicy = MtlsPolicy()


class Certificate(Entry):
    """A workload's certificate where it is not the mesh's own; for labs that show what must be refused."""

    issuer: Literal["mesh", "foreign", "retired"] = "mesh"
    identity: SpiffeId | None = None


class Database(Entry):
    """What a MariaDB holds: a schema, who may read and write it, and the statements that fill it."""

    schema_: Word = Field(alias="schema")
    users: dict[Word, Line] = Field(min_length=1)
    statements: Lines = ()


class EgressGateway(Entry):
    """Where an egress gateway goes on to (`node:port`), and whom of the mesh it lets pass; without `allow` all."""

    forward_to: Annotated[
        str, Form(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}$", "a node and port such as tinyproxy:8888")
    ]
    allow: tuple[SpiffeId, ...] | None = None


class Workload(Entry):
    """A deployment: one pod, or one for each of its versions."""

    runs: Literal["http", "client", "database", "egress-gateway", "ingress-gateway"]
    port: Port | None = None
    database: Database | None = None
    versions: Labels = ()
    labels: PodLabels = Field(default_factory=dict)
    service_account: Name = "default"
    inject: Flag | None = None
    node: Name | None = None
    certificate: Certificate = Certificate()
    egress: EgressGateway | None = None
    net1: SecondInterface | None = None
    holds: Holds | None = None


class Namespace(Entry):
    """A tenant: its workloads, the policies that isolate them, and the SNAT pool that stands for it outside."""

    inject: Flag = False
    snat: Name | None = None
    labels: PodLabels = Field(default_factory=dict)
    workloads: dict[Label, Workload] = Field(default_factory=dict)
    network_policies: dict[Name, NetworkPolicy] = Field(default_factory=dict)


class Service(Entry):
    """A Kubernetes service: of a workload (`selector`), or of an outside virtual server (`endpoints`)."""

    namespace: Name
    port: Port
    labels: dict[Line, Line] = Field(default_factory=dict)
    selector: Name | None = None
    endpoints: Lines = ()
    cluster_ip: Address | None = None
    tls: Literal["none", "mutual"] = "none"
    server_identity: SpiffeId | None = None


class Destination(Entry):
    """Where a route leads to: a workload (`namespace/workload`), or one version of it; weights are in percent."""

    workload: Line
    version: Label | None = None
    weight: Annotated[int, Field(ge=0, le=100, strict=True)] = 100


class Route(Entry):
    """Which requests go where, as in Istio's VirtualService: those that name one of these hosts, at this gateway."""

    gateway: Line
    hosts: Annotated[Names, Field(min_length=1)]
    to: Annotated[tuple[Destination, ...], Field(min_length=1)]


class Outside(Entry):
    """What every node outside the cluster has; each kind's own `Spec` extends it (harness/nodes)."""

    kind: str
    on: Attachments


def outside_kinds() -> dict[str, type[Outside]]:
    """Return the model of each kind that may stand under `outside`, by its word.

    Only plugs with a `Spec` are meant for lab files; the others furnish the cluster.
    """
    found: dict[str, type[Outside]] = {}
    for name in lookup.names("nodes"):
        spec = getattr(lookup.find("nodes", name), "Spec", None)
        if isinstance(spec, type) and issubclass(spec, Outside):
            found[name] = spec
    return found


class _ByKind:
    """Chooses a node's model by its `kind`; resolved when first used, since the kinds import this module."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(spec) for kind, spec in outside_kinds().items()}
        return core_schema.tagged_union_schema(dict(choices), discriminator="kind")


class Lab(Entry):
    """A lab file."""

    model_config = ConfigDict(defer_build=True)

    lab: Name
    title: Line = ""
    article: Annotated[int, Field(ge=1, strict=True)] | None = None
    networks: Annotated[dict[Name, Network], Field(min_length=1)]
    cluster: Cluster | None = None
    mesh: Mesh = Mesh(provider="none")
    namespaces: dict[Label, Namespace] = Field(default_factory=dict)
    services: dict[Label, Service] = Field(default_factory=dict)
    routes: dict[Label, Route] = Field(default_factory=dict)
    outside: dict[Name, Annotated[Outside, _ByKind()]] = Field(default_factory=dict)
