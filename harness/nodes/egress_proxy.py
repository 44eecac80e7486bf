"""The egress proxy: virtual servers that demand a client certificate, decide by SPIFFE ID, and SNAT."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from harness.evidence import Sighting
from harness.identity import Certificates, Request
from harness.lab import Addresses, Entry, Form, Lab, Name, Outside, SpiffeId
from harness.lookup import nearest
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime, counter_name
from harness.plan import File as NodeFile
from harness.programs.fivetuple import FiveTuple
from harness.sightings import facts_of, json_lines, tcp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORWARDS = True
"""The proxy's node also routes between its networks, as a BIG-IP with a forwarding virtual server does."""

CLIENT_CERTIFICATE = "client-certificate"
"""Who decided when the TLS handshake itself refused the client."""

_KEPT = ("verdict", "identity", "reason", "conn", "virtual_server", "bytes_in", "bytes_out")
_Place = tuple[str | int, ...]


def _listen(value: str) -> str:
    address, _, port = value.rpartition(":")
    try:
        IPv4Address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IPv4 address such as 10.4.0.201") from None
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"port {port} is out of range; a port is 1 to 65535")
    return value


class Snat(Entry):
    """Which pool permitted traffic leaves from."""

    pool: Name


class VirtualServer(Entry):
    """One listener (`address:port`) with its policy, next hop (`node:port`) and SNAT pool."""

    listen: Annotated[
        str,
        Form(r"^[0-9.]+:[0-9]{1,5}$", "an address and port such as 10.4.0.201:3128"),
        AfterValidator(_listen),
    ]
    client_certificate: Literal["require", "optional"] = "require"
    policy: Name
    forward_to: Annotated[
        str, Form(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}$", "a node and port such as tinyproxy:8888")
    ]
    snat: Snat | None = None
    identity: SpiffeId | None = None
    identity_as: Literal["uri", "dns"] = "uri"


class Match(Entry):
    """What a rule matches: a prefix of the SPIFFE ID, or the whole of it."""

    spiffe_prefix: (
        Annotated[str, Form(r"^spiffe://", "the beginning of a SPIFFE ID (spiffe://...)", 2048)] | None
    ) = None
    spiffe_id: SpiffeId | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.spiffe_prefix is None) == (self.spiffe_id is None):
            raise ValueError("say exactly one of 'spiffe_prefix' and 'spiffe_id'")
        return self


class Rule(Entry):
    """First match decides; no match rejects."""

    permit: Match | None = None
    reject: Match | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.permit is None) == (self.reject is None):
            raise ValueError("say exactly one of 'permit' and 'reject'")
        return self


class Spec(Outside):
    """An egress proxy in a lab file."""

    kind: Literal["egress-proxy"]
    engine: Literal["builtin"] = "builtin"
    identity: SpiffeId
    virtual_servers: Annotated[dict[Name, VirtualServer], Field(min_length=1)]
    policies: dict[Name, tuple[Rule, ...]]
    snat_pools: dict[Name, Addresses] = Field(default_factory=dict)
    fault: (
        Literal[
            "silent-log",
            "reject-then-dial",
            "reject-then-dial-quietly",
            "exit-during-flow",
            "skip-server-check",
        ]
        | None
    ) = None


def deciders(spec: Spec) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this node."""
    return (*spec.policies, CLIENT_CERTIFICATE)


def claims(spec: Spec) -> Iterator[tuple[_Place, IPv4Address]]:
    """Yield the addresses this node holds beside those of its attachments, each with its place below it."""
    for name, server in spec.virtual_servers.items():
        yield ("virtual_servers", name, "listen"), IPv4Address(server.listen.rpartition(":")[0])
    for pool, addresses in spec.snat_pools.items():
        for index, address in enumerate(addresses):
            yield ("snat_pools", pool, index), address


def check(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[_Place, str]]:
    """Yield what is wrong with this node in its lab, each with its place below `outside.<name>`."""
    cidrs = [lab.networks[network].cidr for network in spec.on if network in lab.networks]
    where = ", ".join(map(str, cidrs))
    for place, address in claims(spec):
        if cidrs and not any(address in cidr for cidr in cidrs):
            yield place, f"{address} is in none of the networks that {name!r} is on ({where})"
    listening: dict[str, str] = {}
    for server_name, server in spec.virtual_servers.items():
        first = listening.setdefault(server.listen, server_name)
        place = ("virtual_servers", server_name)
        if first != server_name:
            yield (*place, "listen"), f"{server.listen} is taken by virtual server {first!r}"
        for below, message in _check_server(server, spec, lab):
            yield (*place, *below), message
    for pool in spec.snat_pools:
        owner = next(other for other, node in lab.outside.items() if pool in getattr(node, "snat_pools", {}))
        if owner != name:
            yield ("snat_pools", pool), f"SNAT pool {pool!r} is declared by {owner!r} already"
    yield from _cycles(name, spec, lab)


def _check_server(server: VirtualServer, spec: Spec, lab: Lab) -> Iterator[tuple[_Place, str]]:
    if server.policy not in spec.policies:
        known = nearest(server.policy, list(spec.policies))
        yield ("policy",), f"unknown policy {server.policy!r}; {known}"
    if server.snat is not None and server.snat.pool not in spec.snat_pools:
        known = nearest(server.snat.pool, list(spec.snat_pools))
        yield ("snat", "pool"), f"unknown SNAT pool {server.snat.pool!r}; {known}"
    target, _, port = server.forward_to.rpartition(":")
    if target not in lab.outside:
        yield ("forward_to",), f"unknown outside node {target!r}; {nearest(target, list(lab.outside))}"
    elif not 1 <= int(port) <= 65535:
        yield ("forward_to",), f"port {port} is out of range; a port is 1 to 65535"


def _cycles(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[_Place, str]]:
    """Yield each forwarding cycle once: at the first of its virtual servers in alphabetical order."""
    for start in spec.virtual_servers:
        way = [(name, start)]
        while (following := _next(way[-1], lab)) is not None and following not in way:
            way.append(following)
        if following == way[0] and way[0] == min(way):
            shown = " -> ".join(f"{node}:{server}" for node, server in (*way, way[0]))
            yield ("virtual_servers", start, "forward_to"), f"virtual servers forward in a circle: {shown}"


def _next(here: tuple[str, str], lab: Lab) -> tuple[str, str] | None:
    node = lab.outside[here[0]]
    if not isinstance(node, Spec):
        return None
    target, _, port = node.virtual_servers[here[1]].forward_to.rpartition(":")
    other = lab.outside.get(target)
    if not isinstance(other, Spec):
        return None
    for name, server in other.virtual_servers.items():
        if server.listen.rpartition(":")[2] == port:
            return target, name
    return None


def requests(node: Node, plan: Plan) -> tuple[Request, ...]:  # noqa: ARG001 - every kind's form
    """Ask for a certificate for each virtual server, from the mesh's intermediate but not managed by the mesh."""
    spec = _spec(node)
    found = []
    for name, server in spec.virtual_servers.items():
        identity = server.identity or spec.identity
        request = Request(f"{node.name}/{name}", uris=(identity,))
        found.append(request if server.identity_as == "uri" else replace(request, uris=(), dns=(identity,)))
    return tuple(found)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return the proxy program, its certificates, and the rules that give each tenant its address outside."""
    spec = _spec(node)
    folder = bindings.folder(node.name)
    files = [NodeFile("trust.pem", certificates.roots["mesh"])]
    servers = []
    for name, server in spec.virtual_servers.items():
        leaf = certificates.leaves[f"{node.name}/{name}"]
        files += [NodeFile(f"{name}.pem", leaf.chain), NodeFile(f"{name}.key", leaf.key, 0o600)]
        target, _, port = server.forward_to.rpartition(":")
        servers.append(
            {
                "name": name,
                "listen": server.listen,
                "certificate": f"{folder}/{name}.pem",
                "key": f"{folder}/{name}.key",
                "trust": f"{folder}/trust.pem",
                "client_certificate": server.client_certificate,
                "policy": server.policy,
                "forward_to": f"{bindings.address(plan.node(target))}:{port}",
                "bind": str(bindings.inside[node.name, server.snat.pool]) if server.snat else None,
            }
        )
    config = {
        "name": node.name,
        "fault": spec.fault,
        "policies": {name: [_rule(rule) for rule in rules] for name, rules in spec.policies.items()},
        "virtual_servers": servers,
    }
    files.append(NodeFile("egress_proxy.json", json.dumps(config)))
    argv = (*bindings.python, f"{bindings.directory}/programs/egress_proxy.py", f"{folder}/egress_proxy.json")
    inside = [bindings.inside[node.name, pool] for pool in spec.snat_pools]
    return Runtime(
        programs=(Program("egress-proxy", argv, Ready("log", '"ready"')),),
        files=tuple(files),
        rules=_snat_rules(node.name, spec, bindings),
        addresses=(*(address for _, address in claims(spec)), *inside),
    )


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001
    """Yield what the proxy says about each connection, with the 5-tuples of both its sides."""
    accepted: dict[int, FiveTuple | None] = {}
    for event in json_lines(lines):
        kind, number = event.get("event"), event.get("conn")
        if not isinstance(kind, str) or not isinstance(number, int):
            continue
        if "peer" in event:
            accepted[number] = tcp(event["peer"], event.get("local"))
        facts = facts_of(event, _KEPT)
        onward = None
        match kind:
            case "decision":
                facts["by"] = facts_of(event, ("policy",)).get("policy", "")
            case "tls-failed":
                facts["by"] = CLIENT_CERTIFICATE
            case "upstream" | "upstream-failed":
                onward = tcp(event.get("local"), event.get("remote"))
            case "close":
                onward = tcp(event.get("upstream_local"), event.get("upstream_remote"))
        yield Sighting(node.name, "log", kind, event["time"], accepted.get(number), onward, facts)


def _spec(node: Node) -> Spec:
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no egress proxy")
    return node.spec


def _rule(rule: Rule) -> dict[str, str]:
    match = rule.permit or rule.reject or Match()
    action = "permit" if rule.permit else "reject"
    return {"action": action} | match.model_dump(exclude_none=True)


def _snat_rules(name: str, spec: Spec, bindings: Bindings) -> str:
    """Translate what the proxy sends from a tenant's inside address to the tenant's pool, and count it."""
    counters, rules = [], []
    for pool, members in spec.snat_pools.items():
        inside = bindings.inside[name, pool]
        counter = counter_name("snat", pool)
        counters.append(f"  counter {counter} {{ }}")
        if len(members) == 1:
            target = f"snat to {members[0]}"
        else:
            chosen = ", ".join(f"{index} : {member}" for index, member in enumerate(members))
            target = f"snat to numgen inc mod {len(members)} map {{ {chosen} }}"
        rules.append(f"    ip saddr {inside} counter name {counter} {target}")
    newline = "\n"
    return f"""\
table ip tenants {{
{newline.join(counters)}
  chain postrouting {{ type nat hook postrouting priority srcnat;
{newline.join(rules)}
  }}
}}
"""
