"""A lab file becomes a frozen lab: its forms of writing, its pods and its services."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pydantic
import pytest

from harness.errors import InputError
from harness.lab import Attachment, ClusterNode, Lab, load_lab, outside_kinds, parse_lab, pods, services
from harness.nodes import egress_proxy, firewall, forward_proxy
from harness.source import parse

FILES = Path(__file__).parent / "files"
NETWORKS = "lab: x\nnetworks: {nodes: {cidr: 172.19.0.0/16}, dmz: {cidr: 10.4.0.0/24}}\n"
CLUSTER = "cluster: {nodes: [a, b], pools: {p: {cidr: 10.53.0.0/16}}, services_cidr: 10.235.0.0/16}\n"


@pytest.fixture(scope="module")
def lab() -> Lab:
    """Return the lab of the dialect's own example."""
    return load_lab(FILES / "lab.yaml")


def loaded(text: str) -> Lab:
    """Return the lab that a text describes."""
    return parse_lab(parse(text.encode(), "lab.yaml"))


def complaints(text: str) -> list[str]:
    """Return what is wrong with a lab, without the name of the file."""
    with pytest.raises(InputError) as caught:
        loaded(text)
    return [str(problem).removeprefix("lab.yaml:") for problem in caught.value.problems]


def test_values(lab: Lab) -> None:
    """Addresses and networks are of their own types, and each outside node of its kind's model."""
    assert lab.networks["dmz"].cidr == IPv4Network("10.4.0.0/24")
    assert lab.outside["www.f5.com"].on["internet"].address == IPv4Address("198.51.100.7")
    proxy = lab.outside["bigip"]
    assert isinstance(proxy, egress_proxy.Spec)
    assert proxy.virtual_servers["bookinfo-proxy"].listen == "10.4.0.201:3128"
    assert isinstance(lab.outside["firewall"], firewall.Spec)
    assert lab.outside["firewall"].rules[0].from_ == "snat/bookinfo"


def test_lists_of_names_stand_for_mappings(lab: Lab) -> None:
    """Nodes of a cluster, and networks that a node is on, may be a list of names."""
    assert lab.cluster is not None
    assert lab.cluster.nodes == dict.fromkeys(("server-0", "agent-0", "agent-1"), ClusterNode())
    assert list(lab.outside["firewall"].on) == ["dmz", "internet"]


def test_one_value_stands_for_a_list_of_one(lab: Lab) -> None:
    """Where a list is meant, a single value will do."""
    proxy = lab.outside["bigip"]
    tinyproxy = lab.outside["tinyproxy"]
    assert isinstance(proxy, egress_proxy.Spec)
    assert isinstance(tinyproxy, forward_proxy.Spec)
    assert proxy.snat_pools == {"bookinfo": (IPv4Address("10.4.0.211"),)}
    assert tinyproxy.connect_ports == (443,)
    assert lab.services["site"].endpoints == ("www.f5.com:443",)
    assert lab.namespaces["sm-apigw-a"].workloads["bare"].versions == ("v1",)


def test_nothing_stands_for_not_written(lab: Lab) -> None:
    """A key with nothing after it counts as not written; an entry with nothing in it takes its defaults."""
    assert lab.namespaces["empty"].workloads == {}
    assert lab.outside["devcentral.f5.com"].on == {"internet": Attachment()}
    bare = loaded(NETWORKS + "title:\nservices:\noutside:\nmesh:\n")
    assert (bare.title, bare.services, bare.outside, bare.cluster) == ("", {}, {}, None)


def test_a_lab_is_frozen(lab: Lab) -> None:
    """A lab cannot be changed once it is loaded."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        lab.title = "another"  # type: ignore[misc]  # that it is forbidden is the point


def test_no_mesh_unless_it_is_written() -> None:
    """A lab that says nothing of a mesh has none; one that names a mesh has ours."""
    assert loaded(NETWORKS).mesh.provider == "none"
    assert loaded(NETWORKS + "mesh: {}\n").mesh.provider == "builtin"


def test_pods(lab: Lab) -> None:
    """A workload is one pod, or one for each version; sidecars follow the workload, then its namespace."""
    found = {pod.name: pod for pod in pods(lab)}
    assert list(found) == [
        "bookinfo/productpage",
        "bookinfo/reviews-v1",
        "bookinfo/reviews-v2",
        "bookinfo/reviews-v3",
        "bookinfo/traffic-generator",
        "sm-apigw-a/nettools",
        "sm-apigw-a/bare-v1",
    ]
    reviews = found["bookinfo/reviews-v2"]
    assert (reviews.namespace, reviews.workload, reviews.version) == ("bookinfo", "reviews", "v2")
    assert reviews.spec.port == 9080
    assert reviews.service_account == "default"
    assert [name for name, pod in found.items() if not pod.injected] == ["sm-apigw-a/bare-v1"]
    assert found["bookinfo/productpage"].version is None


def test_services(lab: Lab) -> None:
    """Beside the declared services, each http workload with a port has one of its own name."""
    found = services(lab)
    assert list(found) == [
        "bookinfo/bigip-proxy-svc",
        "bookinfo/productpage",
        "bookinfo/site",
        "bookinfo/reviews",
    ]
    assert (found["bookinfo/reviews"].selector, found["bookinfo/reviews"].port) == ("reviews", 9080)
    assert found["bookinfo/productpage"].port == 80  # the declared one, not the automatic one


def test_kinds_are_those_of_lab_files() -> None:
    """What furnishes the cluster itself (sidecars, its nodes, its DNS) is no kind of outside node."""
    kinds = outside_kinds()
    assert {"egress-proxy", "firewall", "forward-proxy", "website"} <= kinds.keys()
    assert not {"sidecar", "cluster-node", "workload", "dns"} & kinds.keys()


def test_field_names_of_the_code_are_no_keys() -> None:
    """A key is known by its word in the file only, not by the name that Python gives it."""
    rules = "outside: {fw: {kind: firewall, on: [dmz], rules: [{name: a, allow: true, from_: dmz}]}}\n"
    (found,) = complaints(NETWORKS + rules)
    assert found.startswith("3:74: unknown key 'from_' in outside.fw.rules[0]; known: allow, from, name,")


def test_structure_and_sense_at_once() -> None:
    """A mistake in one key does not hide what is wrong between others, and causes no second complaint."""
    text = (
        NETWORKS
        + CLUSTER
        + """\
namespaces:
  n:
    workloads:
      web: {runs: http, port: eighty}
      shell: {runs: client, node: c}
services:
  web: {namespace: n, port: 80, selector: web}
  far: {namespace: n, port: 80, endpoints: [site:80, sight:80]}
outside:
  site: {kind: website, on: {dmz: {address: 10.4.0.999}}}
"""
    )
    assert complaints(text) == [
        "7:31: 'port' must be a whole number; found the text 'eighty'",
        "8:35: unknown cluster node 'c'; known: a, b",
        "11:54: unknown outside node 'sight'; known: site; did you mean 'site'?",
        "13:45: '10.4.0.999' is not an IPv4 address such as 10.4.0.201",
    ]


def test_what_hangs_on_a_refused_name_is_not_complained_of() -> None:
    """A network with a mistake in it is not also unknown to those who are on it."""
    text = "lab: x\nnetworks: {dmz: {cidr: 10.4.0.0/33}}\noutside: {site: {kind: website, on: [dmz]}}\n"
    assert complaints(text) == ["2:24: '10.4.0.0/33' is not an IPv4 network such as 10.4.0.0/24"]


def test_cycle_through_two_proxies() -> None:
    """Virtual servers of several proxies that forward to each other in a circle are found, once."""
    proxy = """\
  {name}:
    kind: egress-proxy
    on: [dmz]
    identity: spiffe://x/y
    virtual_servers: {{v: {{listen: "10.4.0.{last}:1", policy: p, forward_to: "{other}:1"}}}}
    policies: {{p: []}}
"""
    both = proxy.format(name="one", last=8, other="two") + proxy.format(name="two", last=9, other="one")
    assert complaints(NETWORKS + "outside:\n" + both) == [
        "8:72: virtual servers forward in a circle: one:v -> two:v -> one:v"
    ]


def test_one_snat_pool_name_for_one_proxy() -> None:
    """`snat/<pool>` must mean one pool, so that two proxies cannot both have it."""
    proxy = """\
  {name}:
    kind: egress-proxy
    on: [dmz]
    identity: spiffe://x/y
    virtual_servers: {{v: {{listen: "10.4.0.{last}:1", policy: p, forward_to: "site:1"}}}}
    policies: {{p: []}}
    snat_pools: {{tenant: 10.4.0.2{last}}}
"""
    both = proxy.format(name="one", last=8) + proxy.format(name="two", last=9)
    site = "  site: {kind: website, on: [dmz]}\n"
    assert complaints(NETWORKS + "outside:\n" + both + site) == [
        "17:26: SNAT pool 'tenant' is declared by 'one' already"
    ]


def test_a_node_may_listen_on_its_own_address() -> None:
    """An address that a node has on a network and listens on is one address, not a conflict."""
    text = """\
outside:
  one:
    kind: egress-proxy
    on: {dmz: {address: 10.4.0.8}}
    identity: spiffe://x/y
    virtual_servers: {v: {listen: "10.4.0.8:1", policy: p, forward_to: "one:2"}}
    policies: {p: []}
"""
    assert "one" in loaded(NETWORKS + text).outside


def test_the_address_of_a_network_touching_another_is_no_overlap() -> None:
    """Ranges side by side are fine, whatever their order and size."""
    text = "lab: x\nnetworks:\n" + "".join(
        f"  n{index}: {{cidr: {cidr}}}\n"
        for index, cidr in enumerate(("10.0.1.0/24", "10.0.0.0/24", "10.0.2.0/23", "10.0.4.0/32"))
    )
    assert len(loaded(text).networks) == 4


def test_every_overlap_is_named() -> None:
    """Each range that lies in another is complained of, at the later of the two in the file."""
    text = "lab: x\nnetworks:\n" + "".join(
        f"  n{index}: {{cidr: {cidr}}}\n"
        for index, cidr in enumerate(("10.0.1.0/24", "10.0.0.0/16", "10.0.1.0/24", "10.1.0.0/16"))
    )
    assert complaints(text) == [
        "4:14: network 'n1' (10.0.0.0/16) overlaps network 'n0' (10.0.1.0/24)",
        "5:14: network 'n2' (10.0.1.0/24) overlaps network 'n1' (10.0.0.0/16)",
    ]
