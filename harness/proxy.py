"""What an egress proxy is to do, addresses and certificates filled in: what its node tells its engine.

An engine is a module of harness/engines with

    render(proxy) -> Runtime             its program and files; listeners bind each tenant's inside address onward
    read_log(name, program, lines)       its program's lines as sightings; `read_events` does most of it
    DIFFERENCES                          what honestly differs from the engine that the scenarios are written for
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any, Literal

from harness import lookup
from harness.evidence import Sighting
from harness.identity import Certificates, Leaf
from harness.plan import Bindings, File, Plan, Runtime, counter_name
from harness.programs.fivetuple import FiveTuple
from harness.sightings import facts_of, tcp

CLIENT_CERTIFICATE = "client-certificate"
"""Who decided when the TLS handshake itself refused the client."""

AUTHORIZATION_POLICY = "authorization-policy"
"""Who decided where an Envoy of the mesh lets only listed identities pass (Istio's AuthorizationPolicy)."""

HUNG_UP = "ended before the handshake was done"
"""The reason of engines that log none where the client was gone before the handshake's end."""

_ENDED_BY_CLIENT = {"", HUNG_UP, "UNEXPECTED_EOF_WHILE_READING", "ECONNRESET", "EPIPE"}
_ALERT_READ = re.compile("[_ ]ALERT[_ ]", re.IGNORECASE)
"""In OpenSSL's and BoringSSL's words for an alert that came from the other side: TLSV1_ALERT_UNKNOWN_CA."""

_KEPT = ("verdict", "identity", "certificate", "reason", "conn", "virtual_server", "bytes_in", "bytes_out")


@dataclass(frozen=True)
class Rule:
    """Permits or rejects the identities that are `spiffe_id`, or that begin with `spiffe_prefix`: one of the two."""

    permit: bool
    spiffe_id: str | None = None
    spiffe_prefix: str | None = None


@dataclass(frozen=True)
class VirtualServer:
    """One listener; `listen` and `forward_to` are `ip:port`, `bind` the address it goes on from (None: the route's).

    Of the rules of its policy the first match decides; no match rejects, and so does any certificate that has not
    exactly one URI name (SPIFFE X.509-SVID section 2).
    """

    name: str
    listen: str
    leaf: Leaf
    client_certificate_required: bool
    policy: str
    rules: tuple[Rule, ...]
    forward_to: str
    bind: str | None


@dataclass(frozen=True)
class Proxy:
    """A node's proxy; `trust` are the roots of clients (PEM), `folder` where its files will lie in the node.

    `policies` are all of the lab file's; `fault` is how it is to misbehave, for engines that can; `rotates` says
    that certificates and roots may change while it runs, and must then be used without a connection lost. `key_log`
    is the file to which the secrets of its TLS connections are to be appended, if they are. The roots sign for
    `trust_domain` and for no other.
    """

    name: str
    folder: str
    python: tuple[str, ...]
    programs: str
    trust: str
    virtual_servers: tuple[VirtualServer, ...]
    policies: Mapping[str, tuple[Rule, ...]]
    fault: str | None = None
    rotates: bool = False
    key_log: str | None = None
    trust_domain: str = "cluster.local"


@dataclass(frozen=True)
class Instead:
    """Where a scenario says that a client which `by` denies ends with `exit` and shows `words`, it is this instead.

    Several `exits` are for a client whose next system call races with the answer. Empty words are no words.
    """

    by: Literal["policy", "client-certificate"]
    exit: int
    words: str
    exits: tuple[int, ...]
    shows: str


@dataclass(frozen=True)
class Differences:
    """What of an engine's behaviour a scenario may have to allow for.

    `answer` is what a client that the policy rejects is sent; `instead` translates what a scenario, written for the
    builtin engine, says of the client; `limits` are sentences for the reader; `faults`: whether it can misbehave;
    `rotates`: whether it can take new certificates while it runs (Proxy.rotates).
    """

    answer: str
    instead: tuple[Instead, ...] = ()
    limits: tuple[str, ...] = ()
    faults: bool = False
    rotates: bool = False


TRUST = "trust.pem"


def key_logging(path: str | None) -> dict[str, object]:
    """Return the part of an Envoy's CommonTlsContext that has it write the secrets of connections to a file."""
    return {"key_log": {"path": path}} if path else {}


def authorization(allow: Sequence[str] | None) -> tuple[str, tuple[Rule, ...]]:
    """Return the name and the rules of what an Envoy of the mesh does with `allow`, a list of SPIFFE IDs.

    As an AuthorizationPolicy of action ALLOW: who is listed passes, and an empty list lets nobody pass. Without a
    policy (None) every certificate of the mesh is good enough (Istio reference, AuthorizationPolicy).
    """
    if allow is None:
        return "any-identity", (Rule(permit=True, spiffe_prefix="spiffe://"),)
    return AUTHORIZATION_POLICY, tuple(Rule(permit=True, spiffe_id=identity) for identity in allow)


def mesh_envoy(
    name: str, server: VirtualServer, plan: Plan, bindings: Bindings, certificates: Certificates
) -> Runtime:
    """Return an Envoy of the mesh with one virtual server, as program `envoy`; it trusts the mesh's roots."""
    proxy = Proxy(
        name=name,
        folder=bindings.folder(name),
        python=bindings.python,
        programs=f"{bindings.directory}/programs",
        trust=certificates.roots["mesh"],
        virtual_servers=(server,),
        policies={server.policy: server.rules},
        rotates=plan.lab.mesh.certificates.rotate,
        key_log=bindings.key_log(name),
        trust_domain=plan.lab.mesh.trust_domain,
    )
    found: Runtime = lookup.find("engines", "envoy").render(proxy)
    return replace(found, programs=tuple(replace(program, name="envoy") for program in found.programs))


def files_of(proxy: Proxy) -> tuple[File, ...]:
    """Return the trusted roots, and for each virtual server a file of chain and key: one rename replaces both."""
    pairs = [
        File(f"{server.name}.pem", server.leaf.chain + server.leaf.key, 0o600, live=proxy.rotates)
        for server in proxy.virtual_servers
    ]
    return (File(TRUST, proxy.trust, live=proxy.rotates), *pairs)


def read_events(name: str, events: Iterable[Mapping[str, Any]]) -> Iterator[Sighting]:
    """Yield what a proxy says about each connection, with the 5-tuples of both its sides.

    The events are the builtin engine's (harness/programs/egress_proxy.py); other engines' lines are put into their
    form first. Each has `time` in ns since the epoch and `conn`, which tells connections apart.
    """
    accepted: dict[int | str, FiveTuple | None] = {}
    for event in events:
        kind, number = event.get("event"), event.get("conn")
        if not isinstance(kind, str) or not isinstance(number, int | str):
            continue
        if "peer" in event:
            accepted[number] = tcp(event["peer"], event.get("local"))
        facts = facts_of(event, _KEPT)
        onward = None
        match kind:
            case "decision":
                facts["by"] = facts_of(event, ("policy",)).get("policy", "")
                if isinstance(event.get("rule"), int):  # engines write `no match` otherwise
                    facts["matched"] = str(event["rule"])
            case "tls-failed" if _client_ended(facts.get("reason", "")):
                kind = "tls-ended"
            case "tls-failed":
                facts["by"] = CLIENT_CERTIFICATE
            case "upstream" | "upstream-failed" if "peer" not in event:
                onward = tcp(event.get("local"), event.get("remote"))
            case "upstream" | "close":
                onward = tcp(event.get("upstream_local"), event.get("upstream_remote"))
        yield Sighting(name, "log", kind, event["time"], accepted.get(number), onward, facts)


def _client_ended(reason: str) -> bool:
    """Tell whether a handshake came to nothing by the client: it closed, reset, or sent an alert (RFC 8446, 6.2).

    Then the proxy decided nothing, and no denial may be put down to it.
    """
    return reason in _ENDED_BY_CLIENT or _ALERT_READ.search(reason) is not None


def snat_rules(name: str, pools: Mapping[str, Sequence[IPv4Address]], bindings: Bindings) -> str:
    """Return nftables rules: what a proxy sends from a tenant's inside address leaves from its pool, and is counted."""
    counters, rules = [], []
    for pool, members in pools.items():
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
