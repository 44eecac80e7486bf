"""The sidecar: Envoy beside the app, with the pod's traffic redirected through it as Istio does.

Redirection and its exemptions follow Istio's iptables set-up (15001 outbound, 15006 inbound); the exemption is by
socket mark, since a sandbox without root has a single user id. Nobody may connect to the two ports directly: an
original_dst listener would connect to itself without end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from urllib.parse import unquote

from harness import mtls, sds
from harness.evidence import SIDECAR, Sighting
from harness.identity import Certificates, fingerprint
from harness.lab import Service
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime, endpoints, spiffe_id
from harness.plan import File as NodeFile
from harness.proxy import key_logging
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False
MARK = 1337
"""SO_MARK of Envoy's own connections, and of probes that leave a pod without interception."""

CLIENT_RULES, SERVER_RULES = mtls.CLIENT_RULES, mtls.SERVER_RULES
"""What may stand under `by` for the sidecar that a flow leaves through, and for the one that it arrives at."""

_KEPT = (
    "flags",
    "failure",
    "client_failure",
    "details",
    "server_identity",
    "client_identity",
    "tls",
    "upstream_cluster",
    "bytes_in",
    "bytes_out",
)
_TYPE = "type.googleapis.com/envoy.extensions."
_LOG = {
    "time": "%START_TIME(%s%9f)%",
    "event": "connection",
    "listener": "%FILTER_CHAIN_NAME%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_remote": "%UPSTREAM_REMOTE_ADDRESS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "flags": "%RESPONSE_FLAGS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "server_identity": "%UPSTREAM_PEER_URI_SAN%",
    "client_identity": "%DOWNSTREAM_PEER_URI_SAN%",
    "client_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "tls": "%UPSTREAM_TLS_VERSION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
}

_SERVERS_CERTIFICATE = {"server_certificate": "%UPSTREAM_PEER_CERT%"}
"""Logged where certificates change: the whole of it, URL-encoded, since Envoy has no fingerprint of this one."""
_LEAF, _ROOTS = "leaf", "roots"

_RULES = """\
table ip interception {{
  chain output {{ type nat hook output priority -100;
    meta mark {mark} return
    ip daddr 127.0.0.0/8 return
    meta l4proto tcp redirect to :15001
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat;
    iifname "eth0" meta l4proto tcp redirect to :15006
  }}
  chain guard {{ type filter hook output priority filter;
    tcp dport {{ 15001, 15006 }} ct status & dnat == 0 reject with tcp reset
  }}
}}
"""


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return Envoy with a filter chain for each service of the lab and a passthrough for all else.

    Where the mesh is Istio's, nothing: its webhook adds the sidecar.
    """
    if plan.lab.mesh.provider == "istio":
        return Runtime(needs="istio")
    folder = bindings.folder(node.name)
    rotates = plan.lab.mesh.certificates.rotate
    log = _LOG | _SERVERS_CERTIFICATE if rotates else _LOG
    chains, clusters = [], [_passthrough("passthrough"), _passthrough("inbound")]
    for name, service in plan.services.items():
        if service.port == 53:
            continue
        chains.append(_chain(f"outbound {name}", name, bindings.cluster_ips[name], service.port, log))
        clusters.append(_cluster(name, service, node, plan, bindings))
    config = {
        "node": {"id": node.name, "cluster": node.pod.namespace if node.pod else node.name},
        "admin": {"address": {"pipe": {"path": f"{folder}/admin.sock", "mode": 0o600}}},
        "cluster_manager": {"upstream_bind_config": _marked_sockets()},
        "static_resources": {
            "listeners": [
                _listener("outbound", 15001, chains, _filters("passthrough")),
                _inbound(node, plan, bindings),
            ],
            "clusters": clusters,
        },
    }
    argv = (
        *("envoy", "-c", f"{folder}/envoy.json", "--disable-hot-restart", "--concurrency", "1"),
        *("--file-flush-interval-msec", "10", "--log-level", "warning"),
    )
    text, admin = json.dumps(config), f"{folder}/admin.sock"
    secrets = _secrets(node, certificates) if rotates else ()
    applied = sds.applied(admin, secrets, text)
    program = Program("sidecar", argv, Ready("admin", admin), capable=True, applied=applied)
    files = (NodeFile("envoy.json", text), *secrets)
    return Runtime(programs=(program,), files=files, rules=_RULES.format(mark=MARK))


def _secrets(node: Node, certificates: Certificates) -> tuple[NodeFile, ...]:
    """Return the pod's certificate and the mesh's roots as files that Envoy watches."""
    leaf = certificates.leaves[node.name]
    return sds.leaf_file(_LEAF, leaf), sds.trust_file(_ROOTS, certificates.roots["mesh"])


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield each connection Envoy proxied, with the 5-tuples of both its sides and why it failed, if it did."""
    if program != "sidecar":
        return
    for event in json_lines(lines):
        if event.get("event") != "connection":
            continue
        inbound = str(event.get("listener", "")).startswith("inbound")
        facts = facts_of(event, _KEPT) | (mtls.decided_inbound if inbound else mtls.decided_outbound)(event)
        if isinstance(pem := event.get("server_certificate"), str) and "BEGIN" in pem:
            facts["certificate"] = fingerprint(unquote(pem))
        onward = tcp(event.get("upstream_local"), event.get("upstream_remote"))
        flow = tcp(event.get("peer"), event.get("local"))
        yield Sighting(f"{node.name} {SIDECAR}", "log", "connection", event["time"], flow, onward, facts)


def _marked_sockets() -> dict[str, object]:
    sol_socket, so_mark = 1, 36
    option = {"level": sol_socket, "name": so_mark, "int_value": MARK, "state": "STATE_PREBIND"}
    return {"source_address": {"address": "0.0.0.0", "port_value": 0}, "socket_options": [option]}  # noqa: S104


def _listener(name: str, port: int, chains: list[object], default: list[object]) -> dict[str, object]:
    return {
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},  # noqa: S104 - the pod's own
        "listener_filters": [
            {
                "name": "original_dst",
                "typed_config": {"@type": _TYPE + "filters.listener.original_dst.v3.OriginalDst"},
            }
        ],
        "filter_chains": chains,
        "default_filter_chain": {"name": f"{name} passthrough", "filters": default},
    }


def _inbound(node: Node, plan: Plan, bindings: Bindings) -> dict[str, object]:
    log = _access_log({**_LOG, "listener": "inbound"})
    passing = _listener("inbound", 15006, [], _filters("inbound"))
    timeout = plan.lab.mesh.mtls.detection_timeout
    tls = _tls_context(node, [], plan, bindings)
    return mtls.inbound_listener(passing, mtls.accepts(node, plan), tls, timeout, log)


def _chain(name: str, cluster: str, address: IPv4Address, port: int, log: Mapping[str, str]) -> object:
    return {
        "name": name,
        "filter_chain_match": {
            "prefix_ranges": [{"address_prefix": str(address), "prefix_len": 32}],
            "destination_port": port,
        },
        "filters": _filters(cluster, log),
    }


def _access_log(fields: Mapping[str, str]) -> dict[str, object]:
    kind = _TYPE + "access_loggers.stream.v3.StdoutAccessLog"
    return {"name": "stdout", "typed_config": {"@type": kind, "log_format": {"json_format": fields}}}


def _filters(cluster: str, fields: Mapping[str, str] = _LOG) -> list[object]:
    return [
        {
            "name": "tcp_proxy",
            "typed_config": {
                "@type": _TYPE + "filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": cluster,
                "cluster": cluster,
                "access_log": [_access_log(fields)],
            },
        }
    ]


def _passthrough(name: str) -> dict[str, object]:
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s"}


def _cluster(name: str, service: Service, node: Node, plan: Plan, bindings: Bindings) -> dict[str, object]:
    """Return the cluster of a service; endpoints in the mesh, and services that say so, are reached by mTLS."""
    found = endpoints(plan, bindings, service)
    cluster: dict[str, object] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": str(ip), "port_value": port}}
                            }
                        }
                        for _, ip, port in found
                    ]
                }
            ],
        },
    }
    servers = [plan.node(name) for name, _, _ in found]
    if mtls.sends_mutual_tls(node, plan, service, servers):
        identities = sorted({spiffe_id(plan, server.pod) for server in servers if server.pod})
        if service.server_identity:
            identities = [service.server_identity]
        context = {
            "@type": _TYPE + "transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": _tls_context(node, identities, plan, bindings),
            "sni": f"outbound_.{service.port}_._.{name.partition('/')[2]}.{service.namespace}.svc.cluster.local",
        }
        cluster["transport_socket"] = {"name": "tls", "typed_config": context}
    return cluster


def _tls_context(node: Node, identities: list[str], plan: Plan, bindings: Bindings) -> dict[str, object]:
    """Present the pod's certificate; demand one of these identities (Istio: secure naming) from the other side."""
    folder = bindings.folder(node.name)
    validation: dict[str, object] = {}
    if identities:
        validation["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": identity}} for identity in identities
        ]
    versions = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
    common = {"tls_params": versions, **key_logging(bindings.key_log(node.name))}
    if plan.lab.mesh.certificates.rotate:
        return {
            **common,
            "tls_certificate_sds_secret_configs": [sds.reference(folder, _LEAF)],
            "combined_validation_context": {
                "default_validation_context": validation,
                "validation_context_sds_secret_config": sds.reference(folder, _ROOTS),
            },
        }
    validation["trusted_ca"] = {"filename": f"{folder}/certs/root-cert.pem"}
    return {
        **common,
        "tls_certificates": [
            {
                "certificate_chain": {"filename": f"{folder}/certs/cert-chain.pem"},
                "private_key": {"filename": f"{folder}/certs/key.pem"},
            }
        ],
        "validation_context": validation,
    }
