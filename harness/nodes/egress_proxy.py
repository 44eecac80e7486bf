"""The egress proxy: virtual servers that demand a client certificate, decide by SPIFFE ID, and SNAT."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import Field

from harness.lab import Entry, Name, Outside

FORWARDS = True
"""The proxy's node also routes between its networks, as a BIG-IP with a forwarding virtual server does."""


class Snat(Entry):
    """Which pool permitted traffic leaves from."""

    pool: Name


class VirtualServer(Entry):
    """One listener (`address:port`) with its policy, next hop (`node:port`) and SNAT pool."""

    listen: Annotated[str, Field(pattern=r"^[0-9.]+:[0-9]+$")]
    client_certificate: Literal["require", "optional"] = "require"
    policy: Name
    forward_to: str
    snat: Snat | None = None
    identity: str | None = None
    identity_as: Literal["uri", "dns"] = "uri"


class Match(Entry):
    """What a rule matches: a prefix of the SPIFFE ID, or the whole of it."""

    spiffe_prefix: str | None = None
    spiffe_id: str | None = None


class Rule(Entry):
    """First match decides; no match rejects."""

    permit: Match | None = None
    reject: Match | None = None


class Spec(Outside):
    """An egress proxy in a lab file."""

    kind: Literal["egress-proxy"]
    engine: Literal["builtin"] = "builtin"
    identity: str
    virtual_servers: dict[Name, VirtualServer]
    policies: dict[Name, tuple[Rule, ...]]
    snat_pools: dict[Name, tuple[IPv4Address, ...]] = {}
    fault: Literal["silent-log", "reject-then-dial", "skip-server-check"] | None = None
