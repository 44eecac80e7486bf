"""Mutual TLS between pods: what a server's sidecar accepts, what a client's sends, and who said no, by what name.

The modes are Istio's. A server's (PeerAuthentication) decide which filter chains its inbound listener has: STRICT only
one for TLS, PERMISSIVE one for plain text beside it, DISABLE one for whatever comes. A client's (DestinationRule,
`trafficPolicy.tls.mode`) decides what its sidecar sends; without one it sends mutual TLS to whom it knows to accept
it (auto mTLS).

To tell TLS from plain text a listener looks at the client's first bytes, and a client of a server-first protocol such
as MySQL's sends none (Istio, "Server First Protocols"). So how long it waits is told here (`detection_timeout`); then
it takes the connection for plain text (Envoy, `continue_on_listener_filters_timeout`). Istio's default is to wait
without end, and it warns of any other: a slow client of TLS that is taken for plain text is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.lab import Service
from harness.lab_words import seconds_of
from harness.plan import Node, Plan

MUTUAL_TLS = "mutual-tls"
"""Who decided when a server that demands mutual TLS was sent no TLS."""
CLIENT_CERTIFICATE = "client-certificate"
"""Who decided when a client showed no certificate of the mesh."""
SERVER_TLS = "server-tls"
"""Who decided, at the client's sidecar, when the server's side spoke no TLS."""
SERVER_CERTIFICATE = "server-certificate"
"""Who decided when the server's certificate was not one of the mesh."""
SERVER_IDENTITY = "server-identity"
"""Who decided when the server's certificate did not name the identity that the service must have."""

CLIENT_RULES = (SERVER_IDENTITY, SERVER_CERTIFICATE, SERVER_TLS)
SERVER_RULES = (MUTUAL_TLS, CLIENT_CERTIFICATE)

_NO_CHAIN = "filter_chain_not_found"
_ALERT, _NOT_VERIFIED = "ALERT", "CERTIFICATE_VERIFY_FAILED"
_NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_TLS_CHAIN = "inbound tls"
_FILTER = "type.googleapis.com/envoy.extensions.filters."


def accepts(node: Node, plan: Plan) -> str:
    """Return what the pod's server side accepts: strict, permissive or disable."""
    policy = plan.lab.mesh.mtls
    return _most_specific(node, policy.overrides) or policy.default


def sends_mutual_tls(node: Node, plan: Plan, service: Service, servers: Sequence[Node]) -> bool:
    """Say whether the pod's client side sends mutual TLS to a service of these servers."""
    if service.tls == "mutual":
        return True
    if service.selector is None:
        return False
    told = _most_specific(node, plan.lab.mesh.mtls.clients)
    if told is not None:
        return told == "istio_mutual"
    return bool(servers) and all(
        server.pod is not None and server.pod.injected and accepts(server, plan) != "disable"
        for server in servers
    )


def _most_specific(node: Node, words: Mapping[str, str]) -> str | None:
    if node.pod is None:
        return None
    workload = f"{node.pod.namespace}/{node.pod.workload}"
    return words.get(workload) or words.get(node.pod.namespace)


def inbound_listener(
    listener: Mapping[str, Any], accepted: str, tls: Mapping[str, Any], timeout: str, log: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the inbound listener of a pod from one that accepts whatever comes.

    `tls` is the common TLS context, `timeout` the lab file's `detection_timeout`, `log` the access log's form.
    """
    if accepted == "disable":
        return dict(listener)
    passed = dict(listener)
    plain_filters = passed.pop("default_filter_chain")["filters"]
    chains = [
        {
            "name": _TLS_CHAIN,
            "filter_chain_match": {"transport_protocol": "tls"},
            "filters": [_after_the_handshake(one) for one in plain_filters],
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": True,
                    # a resumed session would bring the identity of another connection
                    "disable_stateless_session_resumption": True,
                    "disable_stateful_session_resumption": True,
                    "common_tls_context": dict(tls),
                },
            },
        }
    ]
    if accepted == "permissive":
        plain = {"transport_protocol": "raw_buffer"}
        chains.append({"name": "inbound plain", "filter_chain_match": plain, "filters": plain_filters})
    inspector = {
        "name": "tls_inspector",
        "typed_config": {"@type": _FILTER + "listener.tls_inspector.v3.TlsInspector"},
    }
    # a connection that no chain takes has no log but its listener's (Istio logs those, too: flag NR)
    unmatched = {"filter": {"response_flag_filter": {"flags": ["NR"]}}}
    return passed | {
        "listener_filters": [*passed["listener_filters"], inspector],
        "listener_filters_timeout": f"{seconds_of(timeout):g}s",
        "continue_on_listener_filters_timeout": True,
        "filter_chains": chains,
        "access_log": [dict(log) | unmatched],
    }


def _after_the_handshake(tcp_proxy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a TCP proxy that goes on to the app only when the client's certificate has been verified.

    Envoy would otherwise connect at once, and the app see a connection of a client that is refused.
    """
    config = dict(tcp_proxy["typed_config"])
    config |= {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": 0}
    return {**tcp_proxy, "typed_config": config}


def decided_inbound(event: Mapping[str, Any]) -> dict[str, str]:
    """Return what the server's sidecar says of a connection in its log: whom it verified, or why it refused.

    A name in a certificate that failed verification is in the log as well, and is nobody's identity. A failure that
    stands in the log of another chain than that for TLS is only how Envoy found out that what came was no TLS.
    """
    failure = str(event.get("client_failure") or "")
    if event.get("details") == _NO_CHAIN:
        return {"refused": "true", "by": MUTUAL_TLS, "reason": "no TLS from the client"}
    if event.get("listener") != _TLS_CHAIN:
        return {}
    if failure:
        # an alert that came from the client is its decision, and one without a reason may be its end
        ours = _NOT_VERIFIED in failure or _NO_CERTIFICATE in failure
        return {"refused": "true", "by": CLIENT_CERTIFICATE, "reason": failure} if ours else {}
    return _identity(event.get("client_identity"))


def decided_outbound(event: Mapping[str, Any]) -> dict[str, str]:
    """Return what the client's sidecar says of a connection in its log: whom it verified, or why it refused.

    An alert that the server sent is the server's decision.
    """
    failure = str(event.get("failure") or "")
    if "SAN" in failure:
        return {"refused": "true", "by": SERVER_IDENTITY, "reason": failure}
    if _NOT_VERIFIED in failure:
        return {"refused": "true", "by": SERVER_CERTIFICATE, "reason": failure}
    if "TLS_error" in failure and _ALERT not in failure:
        return {"refused": "true", "by": SERVER_TLS, "reason": failure}
    return {} if failure else _identity(event.get("server_identity"))


def _identity(value: object) -> dict[str, str]:
    return {"identity": value} if isinstance(value, str) and value else {}
