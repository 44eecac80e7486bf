"""The egress proxy: virtual servers that demand a client certificate, decide by SPIFFE ID, and SNAT."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from harness import bird, lookup
from harness.evidence import UNREACHABLE, Sighting
from harness.identity import Certificates, Request
from harness.lab import Addresses, Entry, Form, Lab, Name, Outside, SpiffeId
from harness.lookup import nearest
from harness.plan import Bindings, Node, Plan, Runtime
from harness.proxy import CLIENT_CERTIFICATE, Differences, Instead, Proxy, snat_rules
from harness.proxy import Rule as ProxyRule
from harness.proxy import VirtualServer as Listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

FORWARDS = True
"""The proxy's node also routes between its networks, as a BIG-IP with a forwarding virtual server does."""
SENDS = True
"""Scenarios may say `from` of it: it is a machine from which one pings."""

ROTATES = True
"""Its certificates can be replaced while it runs."""

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


def _known(value: str) -> str:
    known = list(lookup.names("engines"))
    if value not in known:
        raise ValueError(f"unknown engine {value!r}; {nearest(value, known)}")
    return value


Engine = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": sorted(lookup.names("engines"))})
]


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
    engine: Engine = "builtin"
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
            "keep-certificates",
            "keep-trust",
            "keep-sessions",
            "ignore-validity",
        ]
        | None
    ) = None


def deciders(spec: Spec) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this node."""
    return (*spec.policies, CLIENT_CERTIFICATE, *dict.fromkeys(UNREACHABLE.values()))


def listeners(node: Node, bindings: Bindings) -> tuple[str, ...]:  # noqa: ARG001 - every kind's form
    """Return where it listens, as `ip:port`."""
    return tuple(server.listen for server in _spec(node).virtual_servers.values())


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
    if spec.fault is not None and not lookup.find("engines", spec.engine).DIFFERENCES.faults:
        yield ("fault",), f"the engine {spec.engine!r} cannot be made to misbehave; 'builtin' can"
    if lab.mesh.certificates.rotate and not lookup.find("engines", spec.engine).DIFFERENCES.rotates:
        yield (
            ("engine",),
            f"the engine {spec.engine!r} cannot change its certificates, as 'mesh.certificates' demands",
        )
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
    """Return what the engine runs, and the rules that give each tenant its address outside, whatever the engine."""
    spec = _spec(node)
    inside = [bindings.inside[node.name, pool] for pool in spec.snat_pools]
    addressed = Runtime(
        rules=snat_rules(node.name, spec.snat_pools, bindings),
        addresses=(*(address for _, address in claims(spec)), *inside),
    )
    found: Runtime = _engine(node).render(_proxy(node, plan, bindings, certificates))
    return found.merged(addressed).merged(bird.of_peer(node, plan, bindings))


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield what the engine says about each connection, with the 5-tuples of both its sides."""
    found: Iterator[Sighting] = _engine(node).read_log(node.name, program, lines)
    yield from found


def instead(node: Node, by: str) -> tuple[str, tuple[Instead, ...]]:
    """Return the engine's name, and how a client that `by` denies differs from what scenarios say of it."""
    differences: Differences = _engine(node).DIFFERENCES
    if by in UNREACHABLE.values():  # its kernel says so, whichever engine runs
        return _spec(node).engine, ()
    kind = by if by == CLIENT_CERTIFICATE else "policy"
    return _spec(node).engine, tuple(entry for entry in differences.instead if entry.by == kind)


def _engine(node: Node) -> ModuleType:
    return lookup.find("engines", getattr(node.spec, "engine", "builtin"))


def _proxy(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Proxy:
    spec = _spec(node)
    policies = {name: tuple(map(_rule, rules)) for name, rules in spec.policies.items()}
    servers = []
    for name, server in spec.virtual_servers.items():
        target, _, port = server.forward_to.rpartition(":")
        servers.append(
            Listener(
                name=name,
                listen=server.listen,
                leaf=certificates.leaves[f"{node.name}/{name}"],
                client_certificate_required=server.client_certificate == "require",
                policy=server.policy,
                rules=policies[server.policy],
                forward_to=f"{bindings.address(plan.node(target))}:{port}",
                bind=str(bindings.inside[node.name, server.snat.pool]) if server.snat else None,
            )
        )
    return Proxy(
        name=node.name,
        folder=bindings.folder(node.name),
        python=bindings.python,
        programs=f"{bindings.directory}/programs",
        trust=certificates.roots["mesh"],
        virtual_servers=tuple(servers),
        policies=policies,
        fault=spec.fault,
        rotates=plan.lab.mesh.certificates.rotate,
        key_log=bindings.key_log(node.name),
        trust_domain=plan.lab.mesh.trust_domain,
    )


def _spec(node: Node) -> Spec:
    if not isinstance(node.spec, Spec):
        raise TypeError(f"{node.name} is no egress proxy")
    return node.spec


def _rule(rule: Rule) -> ProxyRule:
    match = rule.permit or rule.reject or Match()
    return ProxyRule(rule.permit is not None, match.spiffe_id, match.spiffe_prefix)
