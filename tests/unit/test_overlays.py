"""Address pools with overlays become routes, devices and sizes: by pool, by mode, and by the networks of the nodes."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest
from small_tenants import plan_of, pretended_certificates

from harness.agent.bind import bind
from harness.agent.lower import lower
from harness.plan import render

if TYPE_CHECKING:
    from harness.agent.layout import Layout, Space

LAB = """\
lab: racks
networks: {rack-a: {cidr: 172.19.0.0/24, mtu: 1600}, rack-b: {cidr: 172.20.0.0/24, mtu: 1500}}
cluster:
  network: rack-a
  nodes: {a1: {}, a2: {}, b1: {network: rack-b}}
  pools:
    plain: {cidr: 10.50.0.0/16}
    cross: {cidr: 10.51.0.0/16, overlay: vxlan, mode: CrossSubnet, namespaces: [cross]}
    all: {cidr: 10.52.0.0/16, overlay: vxlan, namespaces: [all]}
    none: {cidr: 10.53.0.0/16, overlay: vxlan, mode: Never, namespaces: [none]}
  services_cidr: 10.235.0.0/16
namespaces:
  cross: {workloads: {near: {runs: client, node: a2}, far: {runs: client, node: b1}}}
  all: {workloads: {near: {runs: client, node: a2}, far: {runs: client, node: b1}}}
  none: {workloads: {near: {runs: client, node: a2}, far: {runs: client, node: b1}}}
outside:
  core: {kind: router, on: {rack-a: {address: 172.19.0.254}, rack-b: {address: 172.20.0.254}}}
"""


def layout_of(text: str = LAB) -> Layout:
    """Return the layout of a lab that a text describes."""
    plan = plan_of(text)
    bindings = bind(plan)
    return lower(plan, bindings, render(plan, bindings, pretended_certificates(plan)))


def space_of(name: str, text: str = LAB) -> Space:
    """Return a node's part of the layout."""
    return next(space for space in layout_of(text).spaces if space.name == name)


def blocks(space: Space, pool: str) -> dict[str, tuple[str | None, str | None]]:
    """Return next hop and device of a node's routes to the other nodes' blocks of a pool."""
    found = (route for route in space.routes if route.destination.endswith("/26"))
    within = [route for route in found if IPv4Network(route.destination).subnet_of(IPv4Network(pool))]
    return {route.destination: (route.gateway, route.device) for route in within}


def test_a_pool_without_an_overlay_has_plain_routes() -> None:
    """The next hop is the other node, or the router where that is on another network."""
    assert blocks(space_of("a1"), "10.50.0.0/16") == {
        "10.50.0.64/26": ("172.19.0.3", None),
        "10.50.0.128/26": ("172.19.0.254", None),
    }


@pytest.mark.parametrize(
    ("pool", "near", "far"),
    [
        ("10.51.0.0/16", ("172.19.0.3", None), ("10.51.0.128", "vxlan.calico")),
        ("10.52.0.0/16", ("10.51.0.64", "vxlan.calico"), ("10.51.0.128", "vxlan.calico")),
        ("10.53.0.0/16", ("172.19.0.3", None), ("172.19.0.254", None)),
    ],
    ids=["CrossSubnet", "Always", "Never"],
)
def test_the_mode_says_which_routes_lead_through_the_overlay(
    pool: str, near: tuple[str, str | None], far: tuple[str, str | None]
) -> None:
    """CrossSubnet those to nodes of another network, Always every one, Never none."""
    found = blocks(space_of("a1"), pool)
    node_of = {"a2": near, "b1": far}
    own = {space.name: space for space in layout_of().spaces}
    for node, hop in node_of.items():
        addresses = {
            route.destination.partition("/")[0]
            for route in own[node].routes
            if (route.device or "").startswith("cali")
        }
        block = next(
            one for one in found if any(IPv4Network(a).subnet_of(IPv4Network(one)) for a in addresses)
        )
        assert found[block] == hop


def test_ends_have_addresses_of_the_first_pool_with_an_overlay() -> None:
    """Every node has a block of that pool, pods or not, and its end has the first address, which no pod gets."""
    for name, address in (("a1", "10.51.0.0"), ("a2", "10.51.0.64"), ("b1", "10.51.0.128")):
        (tunnel,) = space_of(name).tunnels
        assert tunnel.addresses == (f"{address}/32",)
        assert tunnel.tap == f"{name}.vxlan"
    assert space_of("b1").tunnels[0].local == "172.20.0.2"


def test_ends_know_each_other_across_networks() -> None:
    """Neighbours and forwarding entries are there for every other node, wherever it is."""
    (tunnel,) = space_of("a1").tunnels
    assert [end for _, end in tunnel.ends] == ["172.19.0.3", "172.20.0.2"]
    assert [one.address for one in space_of("a1").neighbours if one.device == "vxlan.calico"] == [
        "10.51.0.64",
        "10.51.0.128",
    ]


def test_sizes_are_those_of_the_smallest_network() -> None:
    """Pods may send what every network of the nodes passes on, less 50 bytes; nodes what their own network does."""
    assert space_of("cross/near").nics[0].mtu == 1450
    assert space_of("a1").tunnels[0].mtu == 1450
    assert [nic.mtu for nic in space_of("a1").nics if nic.bridge] == [1600]


def test_without_any_overlay_there_is_no_device_and_no_byte_is_lost() -> None:
    """Where every pool's mode is Never, it is as if there was no overlay."""
    text = LAB.replace("mode: CrossSubnet", "mode: Never").replace("vxlan, namespaces", "none, namespaces")
    assert space_of("a1", text).tunnels == ()
    assert space_of("cross/near", text).nics[0].mtu == 1500
    assert space_of("cross/near", text).nics[0].whole


def test_a_node_is_on_the_network_that_it_names() -> None:
    """Its address and its tap are of that network, and it has a route to the others by the router."""
    space = space_of("b1")
    assert [(nic.bridge, nic.tap, nic.addresses) for nic in space.nics] == [
        ("rack-b", "b1.rack-b", ("172.20.0.2/24",))
    ]
    assert ("172.19.0.0/24", "172.20.0.254") in {(one.destination, one.gateway) for one in space.routes}


def test_ip_in_ip_is_a_device_and_routes_by_the_other_nodes_addresses() -> None:
    """The next hop is the outer packet's destination; the device has the first address of a block, and no MAC."""
    text = LAB.replace("overlay: vxlan, mode: CrossSubnet", "overlay: ipip, mode: CrossSubnet")
    space = space_of("a1", text)
    assert blocks(space, "10.51.0.0/16")["10.51.0.128/26"] == ("172.20.0.2", "ipip.calico")
    assert blocks(space, "10.51.0.0/16")["10.51.0.64/26"] == ("172.19.0.3", None)
    vxlan, ipip = space.tunnels
    assert (ipip.kind, ipip.local, ipip.mtu, ipip.tap) == ("ipip", "172.19.0.2", 1480, "a1.ipip")
    assert ipip.addresses == ("10.51.0.0/32",)
    assert vxlan.addresses == ("10.52.0.0/32",), "the first pool with VXLAN is another now"
    assert space_of("cross/near", text).nics[0].mtu == 1450, "of two overlays the longer header counts"


def test_pods_lose_only_what_the_overlay_adds() -> None:
    """IP-in-IP alone takes 20 bytes."""
    text = LAB.replace("overlay: vxlan", "overlay: ipip")
    assert space_of("cross/near", text).nics[0].mtu == 1480
