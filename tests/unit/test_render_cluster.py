"""A lab as Kubernetes objects: what is written down, what the published schemas allow, and what each part must say."""

from __future__ import annotations

import base64
import json
import os
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from small_tenants import LAB, plan_of, pretended_certificates

from harness.drivers.k3d import cluster_file, node_objects
from harness.drivers.k3d.engine import LAB as LABEL
from harness.drivers.k3d.objects import WORKLOAD, Object, Settings, path_of, spoken
from harness.drivers.k3d.render import missing, objects
from harness.drivers.k3d.standing import binding
from harness.identity import issue
from harness.plan import Plan
from harness.shipped import find_lab, shipped_labs

FILES = Path(__file__).parent / "files"
PLANS = Path(__file__).parents[1] / "plans"
REGENERATE = "EGRESSLAB_WRITE_PLANS"
SETTINGS = Settings("copy", "egresslab-agent:test")
PINS = {"image": "rancher/k3s:v1.35.5-k3s1", "pause": "rancher/mirrored-pause:3.6"}
GOLDEN = ("bookinfo-egress", "platform-bgp")


def shipped_plan(lab: str) -> Plan:
    """Return the plan of a shipped lab."""
    return plan_of(find_lab(lab).read_text(encoding="utf-8"))


def rendered(plan: Plan) -> tuple[Object, ...]:
    """Return the objects of a plan, with certificates that say only whose they are."""
    return objects(plan, binding(plan), pretended_certificates(plan), SETTINGS)


def one(found: tuple[Object, ...], kind: str, name: str, namespace: str | None = None) -> Object:
    """Return the object of that kind and name."""
    return next(
        each
        for each in found
        if each["kind"] == kind
        and each["metadata"]["name"] == name
        and each["metadata"].get("namespace") == namespace
    )


@cache
def schemas() -> dict[str, Any]:
    """Return the published schemas of Kubernetes; the file says where they are from."""
    found: dict[str, Any] = json.loads((FILES / "kubernetes-1.35.schema.json").read_text(encoding="utf-8"))
    return found


def complaints(found: Object) -> list[str]:
    """Return what the published schema of an object's kind says against it; raises KeyError for an unknown kind."""
    errors = checker(f"{found['apiVersion']}/{found['kind']}").iter_errors(found)
    return [f"{spoken(found)} {error.json_path}: {error.message}" for error in errors]


@cache
def checker(kind: str) -> jsonschema.Draft202012Validator:
    """Return what checks objects of a kind, `GROUP/VERSION/KIND`."""
    name = schemas()["kinds"][kind]
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schemas()["$defs"]})


def readable(value: Any) -> Any:
    """Return data with secrets' contents as digests, JSON within texts as what it says, long texts as lines."""
    if isinstance(value, dict):
        if value.get("kind") == "Secret":  # what stands in them is written down by the other driver's tests
            digests = {key: sha256(base64.b64decode(text)).hexdigest() for key, text in value["data"].items()}
            return {**{key: readable(item) for key, item in value.items()}, "data": digests}
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    return value.splitlines() if isinstance(value, str) and "\n" in value else value


@pytest.mark.parametrize("lab", GOLDEN)
def test_objects_are_those_written_down(lab: str) -> None:
    """What two shipped labs come to on a cluster, k3d's configuration before, lies in tests/plans to be read."""
    plan = shipped_plan(lab)
    config = cluster_file.configuration(plan, "copy", "egresslab-copy-nodes", PINS, second=True)
    now = json.dumps(readable([config, *rendered(plan)]), indent=1) + "\n"
    golden = PLANS / f"{lab}.cluster.json"
    if os.environ.get(REGENERATE):
        golden.write_text(now, encoding="utf-8")
    assert now == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("lab", shipped_labs())
def test_every_object_is_what_kubernetes_allows(lab: str) -> None:
    """Each object of each shipped lab has the properties of its kind, of their types, and no others."""
    plan = shipped_plan(lab)
    if plan.lab.cluster is None:
        pytest.skip("this lab has no cluster")
    for found in rendered(plan):
        if "projectcalico" not in found["apiVersion"]:
            assert complaints(found) == []
        assert found["metadata"]["labels"][LABEL] == "copy"


def test_the_schemas_notice_a_slip() -> None:
    """A property that is misspelt, and one of another type, are complained of, each with its place."""
    pod = one(rendered(plan_of(LAB)), "Pod", "client", "red")
    pod["spec"]["hostNam"] = pod["spec"].pop("hostname")
    pod["spec"]["containers"][0]["command"] = "sleep"
    assert len(complaints(pod)) == 2


def test_every_object_is_applied_after_what_it_needs() -> None:
    """Namespaces come before what is in them, a pod's files before the pod; no object comes twice."""
    found = rendered(shipped_plan("spk-egress"))
    paths = [path_of(each) for each in found]
    assert len(paths) == len(set(paths))
    seen: set[str] = {"kube-system"}
    for each in found:
        seen |= {each["metadata"]["name"]} if each["kind"] == "Namespace" else set()
        assert each["metadata"].get("namespace", "kube-system") in seen, spoken(each)
    for each in found:
        for volume in each["spec"]["volumes"] if each["kind"] == "Pod" else ():
            name = volume.get("secret", {}).get("secretName")
            if name:
                files = one(found, "Secret", name, each["metadata"]["namespace"])
                assert paths.index(path_of(files)) < paths.index(path_of(each))


def test_a_pod_has_the_address_the_name_and_the_node_of_the_plan() -> None:
    """Calico is told the pod's address, the scheduler its node, and services find it by the workload's name."""
    plan = plan_of(LAB)
    pod = one(rendered(plan), "Pod", "shop-v1", "red")
    assert pod["metadata"]["annotations"]["cni.projectcalico.org/ipAddrs"] == (
        f'["{binding(plan).pods["red/shop-v1"]}"]'
    )
    assert pod["spec"]["nodeSelector"] == {"egresslab.cluster-node": plan.node("red/shop-v1").host}
    assert pod["metadata"]["labels"][WORKLOAD] == "shop"
    service = one(rendered(plan), "Service", "shop", "red")
    assert service["spec"]["selector"] == {WORKLOAD: "shop"}
    assert service["spec"]["clusterIP"] == str(binding(plan).cluster_ips["red/shop"])


def test_a_sidecar_is_the_one_of_the_namespace_driver() -> None:
    """The Envoy's configuration is the same text, and the init container puts the same interception in force."""
    from harness.plan import render  # noqa: PLC0415 - what the other driver runs

    plan = plan_of(LAB)
    runtime = render(plan, binding(plan), pretended_certificates(plan))["red/client"]
    found = rendered(plan)
    files = one(found, "Secret", "client-files", "red")["data"]
    text = next(file.content for file in runtime.files if file.path == "envoy.json")
    assert base64.b64decode(files["envoy.json"]).decode() == text
    assert base64.b64decode(files["rules.nft"]).decode() == runtime.rules
    pod = one(found, "Pod", "client", "red")
    prepare = pod["spec"]["initContainers"][0]
    assert "nft -f" in prepare["command"][-1]
    assert "NET_ADMIN" in prepare["securityContext"]["capabilities"]["add"]
    assert {each["name"] for each in pod["spec"]["containers"]} == {"app", "sidecar", "agent"}
    assert all(not each["securityContext"].get("privileged") for each in pod["spec"]["containers"])


def test_a_service_of_a_proxy_outside_has_its_address_and_no_selector() -> None:
    """The proxy's virtual server is an EndpointSlice of the service's name."""
    found = rendered(plan_of(LAB))
    assert "selector" not in one(found, "Service", "proxy", "red")["spec"]
    slices = one(found, "EndpointSlice", "proxy-3128", "red")
    assert slices["metadata"]["labels"]["kubernetes.io/service-name"] == "proxy"
    assert slices["endpoints"][0]["addresses"] == ["10.4.0.201"]
    assert slices["ports"][0]["port"] == 3128


def test_policies_are_the_lab_files_own() -> None:
    """A NetworkPolicy's spec is what the lab file says, in Kubernetes' own words, with the directions spelt out."""
    policy = """\
    network_policies:
      quiet:
        podSelector: {matchLabels: {app: client}}
        egress:
          - to: [{ipBlock: {cidr: 10.4.0.0/24, except: [10.4.0.9/32]}}]
            ports: [{protocol: TCP, port: 3128, endPort: 3130}]
"""
    found = rendered(
        plan_of(LAB.replace("  blue:\n    inject: true\n", "  blue:\n    inject: true\n" + policy))
    )
    spec = one(found, "NetworkPolicy", "quiet", "blue")["spec"]
    assert spec == {
        "podSelector": {"matchLabels": {"app": "client"}},
        "egress": [
            {
                "to": [{"ipBlock": {"cidr": "10.4.0.0/24", "except": ["10.4.0.9/32"]}}],
                "ports": [{"protocol": "TCP", "port": 3128, "endPort": 3130}],
            }
        ],
        "policyTypes": ["Ingress", "Egress"],
    }
    assert complaints(one(found, "NetworkPolicy", "quiet", "blue")) == []


def test_bgp_is_calicos() -> None:
    """Pools, the mesh and each peer are Calico's resources, in the group that the settings name."""
    plan = shipped_plan("platform-bgp")
    found = objects(
        plan,
        binding(plan),
        pretended_certificates(plan),
        Settings("copy", "i", calico="projectcalico.org/v3"),
    )
    peer = one(found, "BGPPeer", "sky")
    assert peer["apiVersion"] == "projectcalico.org/v3"
    assert peer["spec"] == {"peerIP": "172.19.0.1", "asNumber": 64512, "maxRestartTime": "120s"}
    pool = one(found, "IPPool", "lab-default")["spec"]
    assert (pool["cidr"], pool["natOutgoing"], pool["assignmentMode"]) == ("10.53.0.0/16", False, "Manual")
    assert one(found, "BGPConfiguration", "default")["spec"]["nodeToNodeMeshEnabled"] is True


def test_nodes_are_told_the_way_to_the_labs_other_networks() -> None:
    """A cluster's node reaches networks that it is not on by the router next to it."""
    plan = shipped_plan("bookinfo-egress")
    bindings = binding(plan)
    ways = dict(node_objects.ways(plan.node("server-0"), plan, bindings))
    beside = str(bindings.addresses["bigip", "nodes"])
    assert ways == {"10.4.0.0/24": beside, "198.51.100.0/24": beside}


def test_the_route_controller_watches_by_its_own_account() -> None:
    """Each node runs one, which may read pods and nothing else; what it is told has the lab's ways and no pods."""
    found = rendered(shipped_plan("spk-egress"))
    role = one(found, "ClusterRole", "egresslab-route-controller")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    told = json.loads(one(found, "ConfigMap", "route-controller", "egresslab-system")["data"]["watch.json"])
    assert "workloads" not in told["state"]
    assert told["state"]["mode"]
    daemon = one(found, "DaemonSet", "route-controller", "egresslab-system")
    assert daemon["spec"]["template"]["spec"]["hostNetwork"] is True


def test_what_a_cluster_cannot_do_has_a_name() -> None:
    """A lab with second interfaces, or with nodes on several networks, says which capability it misses, and why."""
    assert "second-interface" in missing(shipped_plan("spk-egress"))
    assert missing(shipped_plan("bookinfo-egress")) == {}


ISTIO = LAB.replace(
    "{provider: builtin}", "{provider: istio, mtls: {default: strict, overrides: {red/shop: disable}}}"
)


def test_istio_gets_the_labs_own_authority_and_rules() -> None:
    """The intermediate is `cacerts`; modes, secure naming and clients are Istio's own resources."""
    plan = plan_of(ISTIO)
    certificates = issue(plan.requests, "Root", "Mesh")
    found = objects(plan, binding(plan), certificates, SETTINGS)
    cacerts = one(found, "Secret", "cacerts", "istio-system")
    assert set(cacerts["data"]) == {"ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"}
    assert (
        base64.b64decode(cacerts["data"]["ca-cert.pem"]).decode()
        == certificates.authorities["mesh"].certificate
    )
    assert one(found, "PeerAuthentication", "default", "istio-system")["spec"] == {"mtls": {"mode": "STRICT"}}
    assert one(found, "PeerAuthentication", "shop", "red")["spec"] == {
        "mtls": {"mode": "DISABLE"},
        "selector": {"matchLabels": {WORKLOAD: "shop"}},
    }
    rule = one(found, "DestinationRule", "proxy", "red")["spec"]
    assert rule["host"] == "proxy.red.svc.cluster.local"
    assert rule["trafficPolicy"]["tls"] == {
        "mode": "ISTIO_MUTUAL",
        "subjectAltNames": ["spiffe://cluster.local/ns/red/sa/default"],
    }
    pod = one(found, "Pod", "client", "red")
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert {each["name"] for each in pod["spec"]["containers"]} == {"app", "agent"}
    assert complaints(pod) == []


def test_istio_routes_by_host_and_weight() -> None:
    """A route of the lab is a VirtualService at its gateway, and each version a subset of the workload's service."""
    text = find_lab("canary").read_text(encoding="utf-8").replace("provider: builtin", "provider: istio")
    text = text.replace("rotate: true", "rotate: false")
    plan = plan_of(text)
    found = objects(plan, binding(plan), issue(plan.requests, "Root", "Mesh"), SETTINGS)
    routes = [each for each in found if each["kind"] == "VirtualService"]
    assert len(routes) == len(plan.lab.routes) > 0
    for each in routes:
        branches = each["spec"]["http"][0]["route"]
        assert sum(branch["weight"] for branch in branches) == 100
        for branch in branches:
            host = branch["destination"]["host"].split(".")[0]
            subset = branch["destination"].get("subset")
            rule = next(
                (r for r in found if r["kind"] == "DestinationRule" and r["metadata"]["name"] == host), None
            )
            assert subset is None or (rule and subset in [s["name"] for s in rule["spec"]["subsets"]])
