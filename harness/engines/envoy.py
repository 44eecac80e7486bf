"""Envoy as egress proxy: mutual TLS, the decision when the handshake is done, then a TCP proxy.

Envoy's RBAC filter would decide on a client's first bytes: too late for servers that speak first. So the handshake's
end sets the connection's filter state by rules in CEL: who the client is, the rule that decides, and the cluster for
it. The TCP proxy after it has chosen its cluster before; it hands the connection to an internal listener, whose TCP
proxy takes the cluster from that state. RBAC would also take any of several URI names; here the list of all has to be
as long as the first.

Who is not permitted gets to another internal listener, which opens nothing: it ends the connection on the first bytes
or after a second, and Envoy passes such an end on as a RST (response flag UR).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import sds
from harness.cel import first_match
from harness.evidence import Sighting
from harness.plan import File, Program, Ready, Runtime
from harness.programs import svid
from harness.proxy import (
    HUNG_UP,
    TRUST,
    Differences,
    Instead,
    Proxy,
    VirtualServer,
    files_of,
    key_logging,
    read_events,
)
from harness.sightings import json_lines

DIFFERENCES = Differences(
    answer="RST, once its first bytes are read (or after 1 s)",
    instead=(
        # it closes over unread bytes: the RST meets the client before or after it has sent its request
        Instead("client-certificate", 56, "", (55, 56), ""),
        Instead("client-certificate", 56, "certificate required", (55, 56), ""),
    ),
    rotates=True,
)

_EXTENSION = "type.googleapis.com/envoy.extensions."
_CLIENT = "client."
"""What the keys of a connection's filter state begin with that tell the inner listener of it."""
_CLUSTER = "envoy.tcp_proxy.cluster"
"""The key from which a TCP proxy takes its cluster."""
_NAMES = _CLIENT + "names"
"""The key of all of a certificate's URI names, joined."""
_PERMIT, _REJECT = "permit", "reject"
_NOBODY = "-rejected"
"""The cluster and internal listener of those who are not permitted; no virtual server's name begins so."""

_ENDS = {
    "details": "%CONNECTION_TERMINATION_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
}
_OUTER = {
    "type": "%ACCESS_LOG_TYPE%",
    "conn": "%CONNECTION_ID%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "decided": f"%FILTER_STATE({_CLIENT}decision:PLAIN)%",
    "tls_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    **_ENDS,
}
_TOLD = ("conn", "peer", "local", "names", "certificate", "decision")
_TRUST = "-trust"
"""The secret that holds the roots of clients; no virtual server's name begins so."""
_OPTIONAL_TRUST = "-trust-optional"
"""The same for virtual servers to whom clients may come without a certificate."""
_INNER = {
    "type": "inner %ACCESS_LOG_TYPE%",
    **{key: f"%FILTER_STATE({_CLIENT}{key}:PLAIN)%" for key in _TOLD},
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_remote": "%UPSTREAM_REMOTE_ADDRESS%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    **_ENDS,
}


def render(proxy: Proxy) -> Runtime:
    """Return Envoy with an outer and an inner listener for each virtual server."""
    servers = proxy.virtual_servers
    config = {
        "node": {"id": proxy.name, "cluster": proxy.name},
        "admin": {"address": {"pipe": {"path": f"{proxy.folder}/admin.sock", "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                *(_outer_listener(server, proxy) for server in servers),
                *(_inner_listener(server) for server in servers),
                _dead_end_listener(),
            ],
            "clusters": [
                *(_to_inner(server) for server in servers),
                *(_to_next(server) for server in servers),
                _to_internal(_NOBODY),
            ],
        },
        "bootstrap_extensions": [
            _plug("envoy.bootstrap.internal_listener", "bootstrap.internal_listener.v3.InternalListener")
        ],
    }
    argv = (
        *("envoy", "-c", f"{proxy.folder}/envoy.json", "--disable-hot-restart", "--concurrency", "1"),
        *("--file-flush-interval-msec", "1", "--log-level", "warning"),
    )
    admin = f"{proxy.folder}/admin.sock"
    text, files = json.dumps(config), files_of(proxy)
    if proxy.rotates:
        leaves = (sds.leaf_file(server.name, server.leaf) for server in servers)
        trusted = (
            sds.trust_file(_TRUST, proxy.trust, proxy.trust_domain),
            sds.trust_file(_OPTIONAL_TRUST, proxy.trust),
        )
        files = (*trusted, *leaves)
    applied = sds.applied(admin, files, text) if proxy.rotates else Ready()
    program = Program("egress-proxy", argv, Ready("admin", admin), applied=applied)
    return Runtime(programs=(program,), files=(*files, File("envoy.json", text)))


def read_log(name: str, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - every engine's form
    """Yield what Envoy says about each connection: that it began, and at its end all the rest."""
    for line in json_lines(lines):
        yield from read_events(name, _events(line))


def _events(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a line says: the outer listener's of who came, the inner one's of who was decided about."""
    where = {key: line.get(key) for key in ("time", "conn", "peer", "local", "virtual_server")}
    ends = {key: line.get(key) for key in ("upstream_local", "upstream_remote", "bytes_in", "bytes_out")}
    reason = line.get("upstream_failure") or line.get("details") or line.get("flags")
    word, _, rule = str(line.get("decision") or "").partition(" ")
    verdict = {_PERMIT: "PERMITTED", _REJECT: "REJECTED"}.get(word)
    match line.get("type"):
        case "TcpConnectionStart":
            yield where | {"event": "accept"}
        case "TcpConnectionEnd" if not line.get("decided"):
            # the handshake's end decides, so that what is undecided never had one
            reason = line.get("tls_failure") or HUNG_UP
            yield where | {"event": "tls-failed", "reason": reason}
            yield where | ends | {"event": "close", "reason": reason}
        case "inner TcpConnectionEnd" if verdict:
            names = str(line.get("names") or "")
            one = {"certificate": line.get("certificate")} | (
                {"identity": names} if svid.is_spiffe_id(names) else {}
            )
            decision = {"event": "decision", "policy": line.get("policy"), "rule": rule, "verdict": verdict}
            yield where | one | decision
            if verdict == "REJECTED":
                ends |= {"upstream_local": None, "upstream_remote": None}
            elif line.get("upstream_local"):
                yield where | ends | {"event": "upstream"}
            yield where | ends | {"event": "close", "verdict": verdict, "reason": reason}


def _plug(name: str, kind: str, **fields: object) -> dict[str, object]:
    """Return a part of Envoy's configuration that is one of its extensions."""
    return {"name": name, "typed_config": {"@type": _EXTENSION + kind, **fields}}


def _certificates(server: VirtualServer, proxy: Proxy) -> dict[str, object]:
    if proxy.rotates:
        trust = _TRUST if server.client_certificate_required else _OPTIONAL_TRUST
        return sds.references(proxy.folder, server.name, trust)
    pair = {"filename": f"{proxy.folder}/{server.name}.pem"}
    roots = {"filename": f"{proxy.folder}/{TRUST}"}
    strict = server.client_certificate_required
    return {
        "tls_certificates": [{"certificate_chain": pair, "private_key": pair}],
        "validation_context": sds.validation(roots, proxy.trust_domain if strict else ""),
    }


def _outer_listener(server: VirtualServer, proxy: Proxy) -> dict[str, object]:
    address, _, port = server.listen.rpartition(":")
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        **_certificates(server, proxy),
        **key_logging(proxy.key_log),
    }
    tls = _plug(
        "tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=server.client_certificate_required,
        # a resumed session brings the identity of another connection
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context=common,
    )
    chain = {
        "filters": [_decide(server), _tcp_proxy(server, _OUTER, _inner_name(server))],
        "transport_socket": tls,
    }
    return {
        "name": server.name,
        "address": {"socket_address": {"address": address, "port_value": int(port)}},
        "filter_chains": [chain],
    }


def _decide(server: VirtualServer) -> dict[str, object]:
    """Return the filter that sets a connection's filter state when its handshake is done, in this order.

    The state is hashable: the pool of connections to the inner listener is chosen by it, and a connection that came
    while another was open would otherwise get that one's state, decision and all.
    """
    words = [f"{_PERMIT if rule.permit else _REJECT} {index}" for index, rule in enumerate(server.rules)]
    ways = [_next_name(server) if rule.permit else _NOBODY for rule in server.rules]
    values = {
        _CLIENT + "conn": "%CONNECTION_ID%",
        _CLIENT + "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        _CLIENT + "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
        _NAMES: "%DOWNSTREAM_PEER_URI_SAN%",
        _CLIENT + "certificate": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
        _CLIENT + "decision": f"%CEL({first_match(server.rules, words, f'{_REJECT} no match', _NAMES)})%",
        _CLUSTER: f"%CEL({first_match(server.rules, ways, _NOBODY, _NAMES)})%",
    }
    state = [
        {
            "object_key": key,
            "factory_key": key if key == _CLUSTER else "envoy.hashable_string",
            "format_string": {"text_format_source": {"inline_string": value}},
            "shared_with_upstream": "ONCE",
        }
        for key, value in values.items()
    ]
    return _plug("decide", "filters.network.set_filter_state.v3.Config", on_downstream_tls_handshake=state)


def _inner_listener(server: VirtualServer) -> dict[str, object]:
    filters = [_tcp_proxy(server, _INNER, _NOBODY)]
    return {"name": _inner_name(server), "internal_listener": {}, "filter_chains": [{"filters": filters}]}


def _tcp_proxy(server: VirtualServer, log: Mapping[str, str], cluster: str) -> dict[str, object]:
    outer = log is _OUTER
    fields = {**log, "virtual_server": server.name, "policy": server.policy}
    stdout = _plug("stdout", "access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": fields})
    waiting = {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": 0}
    return _plug(
        "tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=cluster,
        cluster=cluster,
        access_log=[stdout],
        # the end is logged in any case; the beginning tells that an end is to come
        access_log_options={"flush_access_log_on_start": outer},
        **(waiting if outer else {}),
    )


def _dead_end_listener() -> dict[str, object]:
    """Return a listener that denies whatever comes, at its first bytes, and opens nothing for it."""
    policy: dict[str, object] = {"action": "ALLOW", "policies": {}}
    deny = _plug("deny", "filters.network.rbac.v3.RBAC", stat_prefix=_NOBODY, rules=policy)
    wait = _plug(
        "wait",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=_NOBODY,
        cluster="none",
        upstream_connect_mode="ON_DOWNSTREAM_DATA",
        max_early_data_bytes=1,
        max_downstream_connection_duration="1s",
    )
    return {"name": _NOBODY, "internal_listener": {}, "filter_chains": [{"filters": [deny, wait]}]}


def _inner_name(server: VirtualServer) -> str:
    return f"-inner {server.name}"


def _next_name(server: VirtualServer) -> str:
    return f"-next {server.name}"


def _to_next(server: VirtualServer) -> dict[str, object]:
    address, _, port = server.forward_to.rpartition(":")
    cluster = _static(_next_name(server), {"socket_address": {"address": address, "port_value": int(port)}})
    if server.bind is not None:
        cluster["upstream_bind_config"] = {"source_address": {"address": server.bind, "port_value": 0}}
    return cluster


def _to_inner(server: VirtualServer) -> dict[str, object]:
    """Return a cluster that hands a connection's filter state on with it."""
    raw = _plug("raw", "transport_sockets.raw_buffer.v3.RawBuffer")
    kind = "transport_sockets.internal_upstream.v3.InternalUpstreamTransport"
    return _to_internal(_inner_name(server)) | {
        "transport_socket": _plug("inner", kind, transport_socket=raw)
    }


def _to_internal(listener: str) -> dict[str, object]:
    return _static(listener, {"envoy_internal_address": {"server_listener_name": listener}})


def _static(name: str, address: dict[str, object]) -> dict[str, object]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
