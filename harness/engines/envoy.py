"""Envoy as egress proxy: mutual TLS, RBAC over the certificate's URI names, then a TCP proxy.

RBAC decides on the first bytes after the handshake, and only then does the TCP proxy dial (ON_DOWNSTREAM_DATA): left
to itself it dials at accept, and the next hop sees the rejected. What RBAC compares is the list of all URI names,
joined with commas, as one text: a certificate with two of them matches no rule, while RBAC's own `authenticated`
principal would take either. A comma is in no SPIFFE ID (SPIFFE-ID section 2.2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.evidence import Sighting
from harness.plan import File, Program, Ready, Runtime
from harness.proxy import Differences, Instead, Proxy, Rule, VirtualServer, files_of, read_events
from harness.sightings import json_lines

DIFFERENCES = Differences(
    answer="FIN, once its first bytes are read",
    instead=(
        Instead("policy", 56, "Recv failure: Connection reset by peer", (56,), "Proxy CONNECT aborted"),
        # it closes over unread bytes: the RST meets the client before or after it has sent its request
        Instead("client-certificate", 56, "", (55, 56), ""),
    ),
    limits=(
        "a client that sends nothing is never forwarded: servers that speak first (MySQL) are not reached",
        "a name with a comma, which no SPIFFE ID has, matches no rule",
    ),
)

_TYPE = "type.googleapis.com/"
_EXTENSION = _TYPE + "envoy.extensions."
_RBAC = "envoy.filters.network.rbac"
_PERMIT, _REJECT = "permit", "reject"
_BUFFERED = 65536
"""Bytes of a client that are kept until RBAC has decided and the next hop is connected."""

_LOG = {
    "type": "%ACCESS_LOG_TYPE%",
    "conn": "%CONNECTION_ID%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_remote": "%UPSTREAM_REMOTE_ADDRESS%",
    "names": "%DOWNSTREAM_PEER_URI_SAN%",
    "decided": f"%DYNAMIC_METADATA({_RBAC}:shadow_engine_result)%",
    "rule": f"%DYNAMIC_METADATA({_RBAC}:shadow_effective_policy_id)%",
    "details": "%CONNECTION_TERMINATION_DETAILS%",
    "tls_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
}


def render(proxy: Proxy) -> Runtime:
    """Return Envoy with a listener and a cluster for each virtual server."""
    config = {
        "node": {"id": proxy.name, "cluster": proxy.name},
        "admin": {"address": {"pipe": {"path": f"{proxy.folder}/admin.sock", "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(server, proxy.folder) for server in proxy.virtual_servers],
            "clusters": [_cluster(server) for server in proxy.virtual_servers],
        },
    }
    argv = (
        *("envoy", "-c", f"{proxy.folder}/envoy.json", "--disable-hot-restart", "--concurrency", "1"),
        *("--file-flush-interval-msec", "1", "--log-level", "warning"),
    )
    return Runtime(
        programs=(Program("egress-proxy", argv, Ready("admin", f"{proxy.folder}/admin.sock")),),
        files=(*files_of(proxy), File("envoy.json", json.dumps(config))),
    )


def read_log(name: str, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - every engine's form
    """Yield what Envoy says about each connection: that it began, and at its end all the rest."""
    for line in json_lines(lines):
        yield from read_events(name, _events(line))


def _events(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    where = {key: line.get(key) for key in ("time", "conn", "peer", "local", "virtual_server")}
    if line.get("type") == "TcpConnectionStart":
        yield where | {"event": "accept"}
        return
    if line.get("type") != "TcpConnectionEnd":
        return
    names, decided = str(line.get("names") or ""), line.get("decided")
    verdict = {"allowed": "PERMITTED", "denied": "REJECTED"}.get(str(decided))
    if verdict:
        one = {"identity": names} if "," not in names else {}
        policy = {"policy": line.get("policy"), "rule": line.get("rule")}
        yield where | policy | one | {"event": "decision", "verdict": verdict}
    elif line.get("tls_failure"):
        yield where | {"event": "tls-failed", "reason": line["tls_failure"]}
    ends = {key: line.get(key) for key in ("upstream_local", "upstream_remote", "bytes_in", "bytes_out")}
    if line.get("upstream_local"):
        yield where | ends | {"event": "upstream"}
    reason = line.get("upstream_failure") or line.get("details") or line.get("flags")
    yield where | ends | {"event": "close", "verdict": verdict, "reason": reason}


def _listener(server: VirtualServer, folder: str) -> dict[str, object]:
    address, _, port = server.listen.rpartition(":")
    tls = {
        "@type": _EXTENSION + "transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": server.client_certificate_required,
        # a resumed session brings the identity of another connection
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": f"{folder}/{server.name}.pem"},
                    "private_key": {"filename": f"{folder}/{server.name}.key"},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": f"{folder}/trust.pem"}},
        },
    }
    return {
        "name": server.name,
        "address": {"socket_address": {"address": address, "port_value": int(port)}},
        "filter_chains": [
            {
                "filters": [_rbac(server), _tcp_proxy(server)],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ],
    }


def _rbac(server: VirtualServer) -> dict[str, object]:
    """Return the policy twice: as what is enforced, and as what the log says was decided, and by which rule."""
    matcher = _matcher(server.rules)
    return {
        "name": _RBAC,
        "typed_config": {
            "@type": _EXTENSION + "filters.network.rbac.v3.RBAC",
            "stat_prefix": server.name,
            "matcher": matcher,
            "shadow_matcher": matcher,
        },
    }


def _matcher(rules: Sequence[Rule]) -> dict[str, object]:
    """Return the rules in order; where none matches, RBAC denies."""
    matchers = [
        {
            "predicate": {
                "single_predicate": {
                    "input": {
                        "name": "names",
                        "typed_config": {"@type": _EXTENSION + "matching.common_inputs.ssl.v3.UriSanInput"},
                    },
                    "value_match": _value(rule),
                }
            },
            "on_match": _action(f"{index}", _PERMIT if rule.permit else _REJECT),
        }
        for index, rule in enumerate(rules)
    ]
    otherwise: dict[str, object] = {"on_no_match": _action("no match", _REJECT)}
    return {"matcher_list": {"matchers": matchers}} | otherwise if matchers else otherwise


def _value(rule: Rule) -> dict[str, object]:
    if rule.spiffe_id is not None:
        return {"exact": rule.spiffe_id}
    # [^,]: one name only; the prefix itself is quoted, so that its dots are dots
    return {"safe_regex": {"google_re2": {}, "regex": f"{re.escape(rule.spiffe_prefix or '')}[^,]*"}}


def _action(name: str, word: str) -> dict[str, object]:
    action: dict[str, object] = {"@type": _TYPE + "envoy.config.rbac.v3.Action", "name": name}
    if word == _REJECT:
        action["action"] = "DENY"
    return {"action": {"name": "decide", "typed_config": action}}


def _tcp_proxy(server: VirtualServer) -> dict[str, object]:
    log = {
        "name": "stdout",
        "typed_config": {
            "@type": _EXTENSION + "access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": _LOG | {"virtual_server": server.name, "policy": server.policy},
            },
        },
    }
    return {
        "name": "tcp_proxy",
        "typed_config": {
            "@type": _EXTENSION + "filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": server.name,
            "cluster": server.name,
            "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
            "max_early_data_bytes": _BUFFERED,
            "access_log": [log],
            # the end is logged in any case; the beginning tells that an end is to come
            "access_log_options": {"flush_access_log_on_start": True},
        },
    }


def _cluster(server: VirtualServer) -> dict[str, object]:
    address, _, port = server.forward_to.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": address, "port_value": int(port)}}}
    cluster: dict[str, object] = {
        "name": server.name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": server.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    if server.bind is not None:
        cluster["upstream_bind_config"] = {"source_address": {"address": server.bind, "port_value": 0}}
    return cluster
