"""The ingress gateway: Envoy as a pod at the cluster's edge, as Istio's gateway is.

It routes HTTP by host name to versions of workloads, by weight, and reaches pods of the mesh by mutual TLS with its own
SPIFFE identity. Its routes are a file that Envoy watches (RDS from the file system): a file that is renamed into its
place is taken over at once, without a restart and without touching connections. Requests are never tried again, and
each has a connection of its own on either side: what is lost is seen, and a request is one chain of 5-tuples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from harness import mtls, sds
from harness.evidence import Sighting
from harness.identity import Certificates
from harness.lab import Destination, Route, Service, Workload
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime, spiffe_id
from harness.plan import File as NodeFile
from harness.proxy import key_logging
from harness.route_checks import name_of
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False
NO_ROUTE = "no-route"
"""Who decided when no route is for the host that a request names: the gateway answers 404."""

ROUTES = "routes.json"
_NAME = "routes"
_LEAF, _ROOTS = "leaf", "roots"
_TYPE = "type.googleapis.com/envoy."
_KEPT = ("method", "host", "path", "status", "flags", "failure", "details", "upstream", "routes", "token")
_LOG = {
    "time": "%START_TIME(%s%9f)%",
    "event": "request",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_remote": "%UPSTREAM_REMOTE_ADDRESS%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "routes": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "server_identity": "%UPSTREAM_PEER_URI_SAN%",
    "tls": "%UPSTREAM_TLS_VERSION%",
    "token": "%REQ(X-EGRESSLAB-TOKEN)%",
    "milliseconds": "%DURATION%",
}


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return Envoy with a listener on the workload's port, a cluster for each destination, and its routes."""
    folder = bindings.folder(node.name)
    destinations = {name_of(one): one for _, route in _routes_of(node, plan) for one in route.to}
    config = {
        "node": {"id": node.name, "cluster": node.pod.namespace if node.pod else node.name},
        "admin": {"address": {"pipe": {"path": f"{folder}/admin.sock", "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(_port(node), f"{folder}/{ROUTES}")],
            "clusters": [_cluster(one, node, plan, bindings) for one in destinations.values()],
        },
    }
    argv = (
        *("envoy", "-c", f"{folder}/envoy.json", "--disable-hot-restart", "--concurrency", "1"),
        *("--file-flush-interval-msec", "10", "--log-level", "warning"),
    )
    text, admin = json.dumps(config), f"{folder}/admin.sock"
    live = [NodeFile(ROUTES, _route_file(node, plan), live=True)]
    if plan.lab.mesh.certificates.rotate:
        leaf, roots = certificates.leaves[node.name], certificates.roots["mesh"]
        live += [sds.leaf_file(_LEAF, leaf), sds.trust_file(_ROOTS, roots)]
    applied = sds.applied(admin, live, text)
    return Runtime(
        programs=(Program("gateway", argv, Ready("admin", admin), applied=applied),),
        files=(NodeFile("envoy.json", text), *live),
    )


def deciders(spec: Workload) -> tuple[str, ...]:  # noqa: ARG001 - every kind's form
    """Return the names that a scenario may give as `by` for this pod."""
    return (NO_ROUTE,)


def listeners(node: Node, bindings: Bindings) -> tuple[str, ...]:
    """Return where it listens, as `ip:port`."""
    return (f"{bindings.pods[node.name]}:{_port(node)}",)


def _routes_of(node: Node, plan: Plan) -> tuple[tuple[str, Route], ...]:
    """Return the lab's routes that lead through a gateway, with their names."""
    return tuple((name, route) for name, route in plan.lab.routes.items() if route.gateway == node.name)


def _route_file(node: Node, plan: Plan) -> str:
    """Return the routes as Envoy reads them; each is called by its name and weights, which the access log repeats."""
    hosts = [
        {
            "name": name,
            "domains": list(route.hosts),
            "routes": [
                {
                    "name": f"{name} " + ",".join(f"{name_of(one)}={one.weight}" for one in route.to),
                    "match": {"prefix": "/"},
                    "route": {
                        "weighted_clusters": {
                            "clusters": [{"name": name_of(one), "weight": one.weight} for one in route.to]
                        }
                    },
                }
            ],
        }
        for name, route in _routes_of(node, plan)
    ]
    table = {"@type": _TYPE + "config.route.v3.RouteConfiguration", "name": _NAME, "virtual_hosts": hosts}
    version = hashlib.sha256(json.dumps(table).encode()).hexdigest()[:12]
    return json.dumps({"version_info": version, "resources": [table]})


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield each request, with the 5-tuples of both its sides, the weights it was decided by, and who served it."""
    if program != "gateway":
        return
    for event in json_lines(lines):
        if event.get("event") != "request":
            continue
        facts = facts_of(event, _KEPT) | facts_of({"identity": event.get("server_identity")}, ("identity",))
        kind = "request"
        if facts.get("flags") == "NR":
            kind, facts = "reject", facts | {"by": NO_ROUTE, "reason": facts.get("details", "")}
        onward = tcp(event.get("upstream_local"), event.get("upstream_remote"))
        yield Sighting(
            node.name,
            "log",
            kind,
            event["time"],
            tcp(event.get("peer"), event.get("local")),
            onward,
            facts,
        )


def _port(node: Node) -> int:
    if not isinstance(node.spec, Workload) or node.spec.port is None:
        raise TypeError(f"{node.name} is no gateway")
    return node.spec.port


def _listener(port: int, routes: str) -> dict[str, object]:
    source = {"path_config_source": {"path": routes}, "resource_api_version": "V3"}
    log = _plug("stdout", "access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": _LOG})
    manager = _plug(
        "http",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="ingress",
        rds={"route_config_name": _NAME, "config_source": source},
        common_http_protocol_options={"max_requests_per_connection": 1},
        strip_any_host_port=True,
        use_remote_address=True,
        http_filters=[_plug("router", "filters.http.router.v3.Router")],
        access_log=[log],
    )
    return {
        "name": "http",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},  # noqa: S104 - the pod's own
        "filter_chains": [{"filters": [manager]}],
    }


def _cluster(destination: Destination, gateway: Node, plan: Plan, bindings: Bindings) -> dict[str, object]:
    """Return the cluster of a destination; pods in the mesh are reached by mutual TLS, and must be who they are."""
    namespace, _, workload = destination.workload.partition("/")
    pods = [
        node
        for node in plan.pods
        if node.pod
        and (node.pod.namespace, node.pod.workload) == (namespace, workload)
        and destination.version in (None, node.pod.version)
    ]
    endpoints = [
        {
            "address": {
                "socket_address": {"address": str(bindings.pods[node.name]), "port_value": node.pod.spec.port}
            }
        }
        for node in pods
        if node.pod
    ]
    name = name_of(destination)
    cluster: dict[str, object] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "connection_pool_per_downstream_connection": True,  # else requests at the same time swap connections
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": one} for one in endpoints]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
    port = next((node.pod.spec.port for node in pods if node.pod), None)
    service = Service(namespace=namespace, port=port or 80, selector=workload)
    if mtls.sends_mutual_tls(gateway, plan, service, pods):
        identities = sorted({spiffe_id(plan, node.pod) for node in pods if node.pod})
        cluster["transport_socket"] = _plug(
            "tls",
            "transport_sockets.tls.v3.UpstreamTlsContext",
            common_tls_context=_tls(gateway, identities, plan, bindings),
            sni=f"outbound_.{service.port}_._.{workload}.{namespace}.svc.cluster.local",
        )
    return cluster


def _tls(gateway: Node, identities: Sequence[str], plan: Plan, bindings: Bindings) -> dict[str, object]:
    """Present the gateway's certificate; demand one of these identities (secure naming) from the pod."""
    folder = bindings.folder(gateway.name)
    names = [{"san_type": "URI", "matcher": {"exact": identity}} for identity in identities]
    versions = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
    common = {"tls_params": versions, **key_logging(bindings.key_log(gateway.name))}
    if plan.lab.mesh.certificates.rotate:
        return {
            **common,
            "tls_certificate_sds_secret_configs": [sds.reference(folder, _LEAF)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": names},
                "validation_context_sds_secret_config": sds.reference(folder, _ROOTS),
            },
        }
    chain, key = f"{folder}/certs/cert-chain.pem", f"{folder}/certs/key.pem"
    return {
        **common,
        "tls_certificates": [{"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}],
        "validation_context": {
            "trusted_ca": {"filename": f"{folder}/certs/root-cert.pem"},
            "match_typed_subject_alt_names": names,
        },
    }


def _plug(name: str, kind: str, **fields: object) -> dict[str, object]:
    """Return a part of Envoy's configuration that is one of its extensions."""
    return {"name": name, "typed_config": {"@type": f"{_TYPE}extensions.{kind}", **fields}}
