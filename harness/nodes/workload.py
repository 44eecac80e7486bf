"""A workload's pod: the app container, and what Kubernetes writes into the pod (resolv.conf, certificates)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from harness import mariadb
from harness.dual_stack import EVERY_ADDRESS, is_dual
from harness.egress_model import Holds
from harness.evidence import APP, Sighting
from harness.identity import Certificates, Request
from harness.lab import SERVING, Workload
from harness.plan import CLUSTER_DOMAIN, Bindings, Node, Plan, Program, Ready, Runtime, spiffe_id
from harness.plan import File as NodeFile
from harness.route_checks import GATEWAYS
from harness.sightings import facts_of, json_lines, tcp

FORWARDS = False
KEEPER = "keeper"
"""What the program is called that keeps connections open."""


def requests(node: Node, plan: Plan) -> tuple[Request, ...]:
    """Ask for the pod's certificate: the mesh's identity, unless the lab file says otherwise."""
    pod = node.pod
    if pod is None or plan.lab.mesh.provider != "builtin":  # Istio issues the certificates of its pods
        return ()
    wanted = pod.spec.certificate
    proxied = pod.injected or pod.spec.runs in GATEWAYS
    if not proxied and wanted.identity is None and wanted.issuer == "mesh":
        return ()
    return (Request(node.name, wanted.issuer, uris=(wanted.identity or spiffe_id(plan, pod),)),)


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:
    """Return the app container; `client` workloads idle until something is run in them, gateways have none."""
    spec = node.spec
    if not isinstance(spec, Workload) or node.pod is None:
        raise TypeError(f"{node.name} is no workload")
    folder = bindings.folder(node.name)
    dns = bindings.cluster_ips["kube-system/kube-dns"]
    domains = " ".join(
        (f"{node.pod.namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN)
    )
    resolv = f"nameserver {dns}\nsearch {domains}\noptions ndots:5\n"
    files = [NodeFile("etc/resolv.conf", resolv)]
    leaf = certificates.leaves.get(node.name)
    if leaf is not None:
        live = plan.lab.mesh.certificates.rotate
        files += [
            NodeFile("certs/cert-chain.pem", leaf.chain, live=live),
            NodeFile("certs/key.pem", leaf.key, 0o600, live),
            NodeFile("certs/root-cert.pem", certificates.roots["mesh"], live=live),
        ]
    if spec.runs == "client":
        idle = Runtime(programs=(Program(APP, ("sleep", "infinity")),), files=tuple(files))
        return idle if spec.holds is None else idle.merged(_keeper(spec.holds, folder, plan, bindings))
    if spec.runs in GATEWAYS:
        return Runtime(files=tuple(files))
    port = spec.port or 0
    if spec.database is not None:
        runs = mariadb.runtime(APP, spec.database, folder, bindings.address(node), port)
        return Runtime(files=tuple(files)).merged(runs)
    config = {
        "name": node.pod.workload,
        "version": node.pod.version,
        "listen": [{"address": f"{every}:{port}"} for every in EVERY_ADDRESS[: 1 + is_dual(plan.lab)]],
    }
    files.append(NodeFile("app.json", json.dumps(config)))
    argv = (*bindings.python, f"{bindings.directory}/programs/website.py", f"{folder}/app.json")
    return Runtime(programs=(Program(APP, argv, Ready("log", '"ready"')),), files=tuple(files))


def _keeper(holds: Holds, folder: str, plan: Plan, bindings: Bindings) -> Runtime:
    """Return the program that keeps connections open."""
    target, _, port = holds.to.rpartition(":")
    config = {"to": f"{bindings.address(plan.node(target))}:{port}", "connections": holds.connections}
    argv = (*bindings.python, f"{bindings.directory}/programs/keeper.py", f"{folder}/{KEEPER}.json")
    files = (NodeFile(f"{KEEPER}.json", json.dumps(config)),)
    return Runtime(programs=(Program(KEEPER, argv, Ready("log", '"ready"')),), files=files)


def keeps_log(node: Node) -> bool:
    """Say whether every flow to this pod is in its log: a client answers nobody, and logs nothing."""
    return isinstance(node.spec, Workload) and node.spec.runs in SERVING


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield the requests that an http workload answered, and as which version; the connections to a database."""
    if program != APP or not keeps_log(node):
        return
    if isinstance(node.spec, Workload) and node.spec.runs == "database":
        yield from mariadb.read_log(node.name, lines)
        return
    for event in json_lines(lines):
        if event.get("event") == "request":
            facts = facts_of(event, ("method", "path", "host", "status", "version", "token"))
            flow = tcp(event.get("peer"), event.get("local"))
            yield Sighting(node.name, "log", "request", event["time"], flow, None, facts)
