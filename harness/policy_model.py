"""The model of a NetworkPolicy: the spec of networking.k8s.io/v1, in Kubernetes' own fields. Frozen."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from harness.entry import Entry
from harness.lab_words import Cidr, Port
from harness.labels import LabelSelector

Direction = Literal["Ingress", "Egress"]
INGRESS: Direction = "Ingress"
EGRESS: Direction = "Egress"


class PolicyPort(Entry):
    """A port, or with `endPort` a range of them; without `port` every port of the protocol."""

    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: Port | None = None
    end_port: Port | None = Field(alias="endPort", default=None)

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.end_port is not None and self.port is None:
            raise ValueError("'endPort' needs a 'port', where the range begins")
        if self.end_port is not None and self.port is not None and self.end_port < self.port:
            raise ValueError(f"'endPort' {self.end_port} is below 'port' {self.port}")
        return self


class IpBlock(Entry):
    """A range of addresses, less some in it."""

    cidr: Cidr
    except_: tuple[Cidr, ...] = Field(alias="except", default=())

    @model_validator(mode="after")
    def _within(self) -> Self:
        for one in self.except_:
            if one == self.cidr or not one.subnet_of(self.cidr):
                raise ValueError(f"'except' {one} is not a part of {self.cidr}")
        return self


class PolicyPeer(Entry):
    """Who is meant: pods of the policy's own namespace, pods of other namespaces, both at once, or addresses."""

    pod_selector: LabelSelector | None = Field(alias="podSelector", default=None)
    namespace_selector: LabelSelector | None = Field(alias="namespaceSelector", default=None)
    ip_block: IpBlock | None = Field(alias="ipBlock", default=None)

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        selects = self.pod_selector is not None or self.namespace_selector is not None
        if not selects and self.ip_block is None:
            raise ValueError("say who is meant: 'podSelector', 'namespaceSelector', both, or 'ipBlock'")
        if selects and self.ip_block is not None:
            raise ValueError("'ipBlock' stands alone, without 'podSelector' and 'namespaceSelector'")
        return self


Peers = tuple[PolicyPeer, ...]
Ports = tuple[PolicyPort, ...]


class IngressRule(Entry):
    """What may come in: from any of these peers (none: from everybody), to any of these ports (none: to all)."""

    from_: Peers = Field(alias="from", default=())
    ports: Ports = ()

    @property
    def peers(self) -> Peers:
        """Who is on the other side."""
        return self.from_


class EgressRule(Entry):
    """What may go out: to any of these peers (none: to everybody), to any of these ports (none: to all)."""

    to: Peers = ()
    ports: Ports = ()

    @property
    def peers(self) -> Peers:
        """Who is on the other side."""
        return self.to


class NetworkPolicy(Entry):
    """Isolates the pods that it selects in its namespace, by direction, and says what they may do all the same."""

    pod_selector: LabelSelector = Field(alias="podSelector")
    policy_types: tuple[Direction, ...] = Field(alias="policyTypes", default=())
    ingress: tuple[IngressRule, ...] = ()
    egress: tuple[EgressRule, ...] = ()

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions in which it isolates: ingress always and egress where it has such rules, unless it says.

        As Kubernetes' own defaults have it (pkg/apis/networking/v1, SetDefaults_NetworkPolicy).
        """
        return self.policy_types or ((INGRESS, EGRESS) if self.egress else (INGRESS,))

    def rules(self, direction: Direction) -> tuple[IngressRule | EgressRule, ...]:
        """Return its rules of a direction; those of one in which it does not isolate have no effect."""
        if direction not in self.directions:
            return ()
        return self.ingress if direction == INGRESS else self.egress
