"""The namespace driver's addresses: declared ones first, then the next free one, the same each time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from small_tenants import LAB, plan_of

from harness.agent.bind import bind, with_block, without_block
from harness.errors import InputError


def texts(addresses: object) -> list[str]:
    """Return addresses as they are written."""
    return [str(address) for address in addresses]  # type: ignore[attr-defined] # any iterable of them


def test_free_addresses_are_given_in_the_order_of_the_file() -> None:
    """The first host stays free for a gateway; each node gets the next address of each of its networks."""
    bindings = bind(plan_of())
    assert {key: str(address) for key, address in bindings.addresses.items()} == {
        ("server-0", "nodes"): "172.19.0.2",
        ("agent-0", "nodes"): "172.19.0.3",
        ("bigip", "nodes"): "172.19.0.4",
        ("bigip", "dmz"): "10.4.0.2",
        ("firewall", "dmz"): "10.4.0.3",
        ("firewall", "internet"): "198.51.100.2",
        ("tinyproxy", "internet"): "198.51.100.3",
        ("site.example", "internet"): "198.51.100.4",
    }


def test_declared_addresses_are_kept_and_stepped_over() -> None:
    """A declared address is the node's own, and nobody before or after it gets it."""
    plan = plan_of(
        LAB.replace(
            "site.example: {kind: website, on: {internet: {}}}",
            "site.example: {kind: website, on: {internet: {address: 198.51.100.2}}}",
        )
    )
    bindings = bind(plan)
    assert str(bindings.addresses["site.example", "internet"]) == "198.51.100.2"
    assert str(bindings.addresses["firewall", "internet"]) == "198.51.100.3"


def test_virtual_servers_and_pools_are_never_given_away() -> None:
    """Addresses that a proxy listens on or translates to are not free, wherever they lie in their network."""
    plan = plan_of(LAB.replace("10.4.0.201:3128", "10.4.0.2:3128").replace("10.4.0.211", "10.4.0.3"))
    bindings = bind(plan)
    assert str(bindings.addresses["bigip", "dmz"]) == "10.4.0.4"
    assert str(bindings.addresses["firewall", "dmz"]) == "10.4.0.5"


def test_each_cluster_node_has_a_block_and_its_pods_addresses_of_it() -> None:
    """Blocks are cut from the pool in turn; a pod's address comes from the block of the node that it is on."""
    plan = plan_of()
    bindings = bind(plan)
    assert bindings.blocks == {
        "server-0": (IPv4Network("10.53.0.0/26"),),
        "agent-0": (IPv4Network("10.53.0.64/26"),),
    }
    assert {name: str(address) for name, address in bindings.pods.items()} == {
        "kube-system/kube-dns": "10.53.0.1",
        "red/client": "10.53.0.2",
        "red/shop-v1": "10.53.0.65",
        "red/shop-v2": "10.53.0.3",
        "blue/client": "10.53.0.66",
    }


def many(pods: int, pool: str, block: int = 28) -> str:
    """Return a lab with one cluster node and so many pods beside its DNS."""
    workloads = "".join(f"      w{number}: {{runs: client}}\n" for number in range(pods))
    return (
        "lab: many\nnetworks: {nodes: {cidr: 172.19.0.0/24}}\n"
        f"cluster: {{nodes: [a], pools: {{p: {{cidr: {pool}, block: {block}}}}}, services_cidr: 10.235.0.0/16}}\n"
        f"namespaces:\n  t:\n    workloads:\n{workloads}"
    )


def test_more_pods_than_a_block_holds_take_another_block() -> None:
    """A node whose block is full gets the next free one; no address is given twice or lies outside the blocks."""
    bindings = bind(plan_of(many(40, "10.53.0.0/24")))
    assert texts(bindings.blocks["a"]) == ["10.53.0.0/28", "10.53.0.16/28", "10.53.0.32/28"]
    assert len(set(bindings.pods.values())) == 41
    for address in bindings.pods.values():
        block = next(block for block in bindings.blocks["a"] if address in block)
        assert address != block.network_address


def test_a_pool_without_a_block_left_is_said() -> None:
    """When the pods need more blocks than the pool has, the pool and the node are named."""
    with pytest.raises(InputError, match=r"the pool 10\.53\.0\.0/27 has no block left for node 'a'"):
        bind(plan_of(many(40, "10.53.0.0/27")))


def test_a_pool_without_a_block_for_each_node_is_said() -> None:
    """A pool that has fewer blocks than the cluster nodes is refused when the lab is read."""
    with pytest.raises(InputError, match=r"2 nodes need a block \(/26\) each; it has 1"):
        bind(plan_of(LAB.replace("10.53.0.0/16", "10.53.0.0/26")))


@pytest.mark.parametrize("block", [30, 31, 32])
def test_small_blocks_hold_pods_too(block: int) -> None:
    """Blocks down to a single address are Calico's to choose; each pod still gets an address of a block."""
    bindings = bind(plan_of(many(6, "10.53.0.0/24", block)))
    assert len(set(bindings.pods.values())) == 7
    for address in bindings.pods.values():
        assert any(address in found for found in bindings.blocks["a"])


def test_a_full_network_is_said() -> None:
    """When a network has no address left for a node, the network is named."""
    with pytest.raises(InputError, match=r"network 'nodes' \(172\.19\.0\.0/30\) has no free address left"):
        bind(plan_of(LAB.replace("172.19.0.0/24", "172.19.0.0/30")))


def test_cluster_ips() -> None:
    """Pinned ClusterIPs are kept; others skip them and the first address, which is the API server's by habit."""
    bindings = bind(plan_of())
    assert {name: str(address) for name, address in bindings.cluster_ips.items()} == {
        "red/proxy": "10.235.0.2",
        "red/shop": "10.235.0.3",
        "kube-system/kube-dns": "10.235.0.10",
    }
    pinned = bind(
        plan_of(LAB.replace("proxy: {namespace: red,", "proxy: {namespace: red, cluster_ip: 10.235.0.2,"))
    )
    assert str(pinned.cluster_ips["red/shop"]) == "10.235.0.3"


def test_each_pool_has_an_inside_address_of_its_own() -> None:
    """A proxy binds one address per SNAT pool, from shared address space that no lab may use."""
    two = LAB.replace("snat_pools: {red: 10.4.0.211}", "snat_pools: {red: 10.4.0.211, spare: 10.4.0.212}")
    bindings = bind(plan_of(two))
    assert bindings.inside == {
        ("bigip", "red"): IPv4Address("100.64.0.1"),
        ("bigip", "spare"): IPv4Address("100.64.0.2"),
    }


def test_the_same_plan_is_bound_the_same_each_time() -> None:
    """Whoever asks about a plan gets equal bindings: labs that are up are described without asking them."""
    assert bind(plan_of()) == bind(plan_of())


def test_no_two_things_share_an_address() -> None:
    """Nodes, virtual servers, pools, pods and services are all at addresses of their own."""
    bindings = bind(plan_of())
    given = texts(
        [
            *bindings.addresses.values(),
            *bindings.pods.values(),
            *bindings.cluster_ips.values(),
            *bindings.inside.values(),
        ]
    )
    assert len({*given, "10.4.0.201", "10.4.0.211"}) == len(given) + 2


def test_a_node_that_moves_takes_a_block_that_nobody_has_or_had() -> None:
    """Its pods get addresses there, all others keep theirs; the next one to move may take the block that is free."""
    plan = plan_of()
    first = bind(plan)
    moved = bind(plan, earlier=first, moved="agent-0")
    assert moved.blocks == first.blocks | {"agent-0": (IPv4Network("10.53.0.128/26"),)}
    hosts = {node.name: node.host for node in plan.pods}
    assert {pod for pod in moved.pods if moved.pods[pod] != first.pods[pod]} == {
        pod for pod, host in hosts.items() if host == "agent-0"
    }
    assert all(moved.pods[pod] in moved.blocks[host or ""][0] for pod, host in hosts.items())
    after = bind(plan, earlier=moved, moved="server-0")
    assert after.blocks["server-0"] == first.blocks["agent-0"]


def test_a_block_comes_and_goes() -> None:
    """A block more is one that nobody has; only one without pods is taken back."""
    plan = plan_of()
    first = bind(plan)
    more = with_block(plan, first, "agent-0")
    assert more.blocks["agent-0"] == (*first.blocks["agent-0"], IPv4Network("10.53.0.128/26"))
    assert more.pods == first.pods
    assert without_block(plan, more, "agent-0").blocks == first.blocks
    with pytest.raises(InputError, match="agent-0 has no block without pods"):
        without_block(plan, first, "agent-0")


def test_a_block_more_needs_room_in_the_pool() -> None:
    """A pool of two blocks has none for a third."""
    plan = plan_of(LAB.replace("10.53.0.0/16", "10.53.0.0/25"))
    with pytest.raises(InputError, match="no block left for node 'agent-0'"):
        with_block(plan, bind(plan), "agent-0")
