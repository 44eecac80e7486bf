"""The lab file: what exists. Frozen and validated; the JSON schema of lab files comes from here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Mtls = Literal["strict", "permissive", "disable"]


class Entry(BaseModel):
    """A mapping in a file: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Network(Entry):
    """One layer-2 segment."""

    cidr: IPv4Network


class Attachment(Entry):
    """A node's place on a network; without an address the next free one is assigned."""

    address: IPv4Address | None = None


class Pool(Entry):
    """A Calico IPPool: pod addresses are taken from it in blocks, one or more per node."""

    cidr: IPv4Network
    block: Annotated[int, Field(ge=20, le=32, strict=True)] = 26
    overlay: Literal["none"] = "none"
    nat_outgoing: bool = True


class Bgp(Entry):
    """BGP among the cluster's nodes (BIRD 2, as Calico runs it); `mesh` is the full node-to-node mesh."""

    asn: Annotated[int, Field(ge=1, le=4294967294, strict=True)] = 64512
    mesh: bool = True


class Cluster(Entry):
    """The cluster's nodes, address pools and routing."""

    nodes: dict[Name, Attachment]
    network: Name = "nodes"
    pools: dict[Name, Pool]
    services_cidr: IPv4Network
    bgp: Bgp | None = None


class Authority(Entry):
    """The common names of the organisation's root and intermediate certificate authorities."""

    root: str = "Organisation Root CA"
    intermediate: str = "Organisation Mesh CA"


class MtlsPolicy(Entry):
    """What the mesh's servers accept; a namespace or `namespace/workload` overrides the default."""

    default: Mtls = "permissive"
    overrides: dict[str, Mtls] = {}


class Mesh(Entry):
    """Who issues identities and how traffic is intercepted."""

    provider: Literal["builtin", "none"] = "builtin"
    trust_domain: str = "cluster.local"
    ca: Authority = Authority()
    mtls: MtlsPolicy = MtlsPolicy()


class Certificate(Entry):
    """A workload's certificate where it is not the mesh's own; for labs that show what must be refused."""

    issuer: Literal["mesh", "foreign"] = "mesh"
    identity: str | None = None


class Workload(Entry):
    """A deployment: one pod, or one for each of its versions."""

    runs: Literal["http", "client"]
    port: Port | None = None
    versions: tuple[Name, ...] = ()
    service_account: Name = "default"
    inject: bool | None = None
    node: Name | None = None
    certificate: Certificate = Certificate()


class Namespace(Entry):
    """A tenant: its workloads, and the SNAT pool that stands for it outside."""

    inject: bool = False
    snat: Name | None = None
    workloads: dict[Name, Workload] = {}


class Service(Entry):
    """A Kubernetes service: of a workload (`selector`), or of an outside virtual server (`endpoints`)."""

    namespace: Name
    port: Port
    labels: dict[str, str] = {}
    selector: Name | None = None
    endpoints: tuple[str, ...] = ()
    cluster_ip: IPv4Address | None = None
    tls: Literal["none", "mutual"] = "none"
    server_identity: str | None = None


class Outside(Entry):
    """What every node outside the cluster has; each kind's own `Spec` extends it (harness/nodes)."""

    kind: str
    on: dict[Name, Attachment]


class Lab(Entry):
    """A lab file."""

    lab: Name
    title: str = ""
    article: int | None = None
    networks: dict[Name, Network]
    cluster: Cluster | None = None
    mesh: Mesh = Mesh(provider="none")
    namespaces: dict[Name, Namespace] = {}
    services: dict[Name, Service] = {}
    outside: dict[Name, SerializeAsAny[Outside]] = {}
