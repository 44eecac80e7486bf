"""A bound plan becomes a layout: interfaces, addresses, routes, neighbours and taps of each namespace."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

from small_tenants import LAB, plan_of, pretended_certificates

from harness.agent.bind import bind
from harness.agent.layout import Layout, Space
from harness.agent.lower import lower, next_hop
from harness.plan import render

LINE = """\
lab: line
networks: {a: {cidr: 10.1.0.0/24}, b: {cidr: 10.2.0.0/24}, c: {cidr: 10.3.0.0/24}, d: {cidr: 10.4.0.0/24}}
outside:
  first: {kind: website, on: [a]}
  one: {kind: firewall, on: [a, b]}
  two: {kind: firewall, on: [b, c]}
  last: {kind: website, on: [c]}
  alone: {kind: website, on: [d]}
"""


def layout_of(text: str = LAB) -> Layout:
    """Return the layout of a lab that a text describes."""
    plan = plan_of(text)
    bindings = bind(plan)
    return lower(plan, bindings, render(plan, bindings, pretended_certificates(plan)))


def spaces_of(text: str = LAB) -> dict[str, Space]:
    """Return the layout's spaces by name."""
    return {space.name: space for space in layout_of(text).spaces}


def routes(space: Space) -> dict[str, str | None]:
    """Return a space's routes: destination to next hop, or to `dev` and the interface."""
    return {route.destination: route.gateway or f"dev {route.device}" for route in space.routes}


def test_next_hops_lead_through_several_routers() -> None:
    """Each node has a route to every network that some chain of routers leads to, by the nearest router."""
    spaces = spaces_of(LINE)
    assert routes(spaces["first"]) == {"10.2.0.0/24": "10.1.0.3", "10.3.0.0/24": "10.1.0.3"}
    assert routes(spaces["one"]) == {"10.3.0.0/24": "10.2.0.3"}
    assert routes(spaces["two"]) == {"10.1.0.0/24": "10.2.0.2"}
    assert routes(spaces["last"]) == {"10.1.0.0/24": "10.3.0.2", "10.2.0.0/24": "10.3.0.2"}
    assert routes(spaces["alone"]) == {}


def test_of_two_ways_the_shorter_is_taken() -> None:
    """A router that is on both networks is preferred to a chain; ties go to the order of the file."""
    text = LINE + "  straight: {kind: firewall, on: [a, c]}\n"
    spaces = spaces_of(text)
    assert routes(spaces["first"])["10.3.0.0/24"] == "10.1.0.4"
    assert routes(spaces["first"])["10.2.0.0/24"] == "10.1.0.3"
    twice = LINE + "  again: {kind: firewall, on: [a, b]}\n"
    assert routes(spaces_of(twice)["first"])["10.2.0.0/24"] == "10.1.0.3"


def test_no_way_is_none() -> None:
    """A network that no router joins has no next hop."""
    assert next_hop(plan_of(LINE), {"a"}, "d") is None
    assert next_hop(plan_of(LINE), {"d"}, "a") is None


def test_routes_never_point_at_their_own_node() -> None:
    """Every next hop lies on a network that the node is on, and belongs to another node."""
    for space in layout_of().spaces:
        if space.pod:
            continue
        own = [ip_interface(address) for nic in space.nics for address in nic.addresses]
        for route in space.routes:
            if route.gateway is not None:
                assert any(ip_interface(route.gateway).ip in address.network for address in own), route
                assert all(ip_interface(route.gateway).ip != address.ip for address in own), route
            assert all(ip_network(route.destination) != address.network for address in own), route


def test_a_pod_has_calicos_link_local_gateway() -> None:
    """A pod has one interface with a /32, a route for all to 169.254.1.1, and its node as that neighbour."""
    spaces = spaces_of()
    pod = spaces["red/client"]
    (nic,) = pod.nics
    assert (nic.name, nic.addresses, nic.peer_space, nic.tap) == (
        "eth0",
        ("10.53.0.2/32",),
        "server-0",
        "red/client.eth0",
    )
    assert routes(pod) == {"169.254.1.1/32": "dev eth0", "0.0.0.0/0": "169.254.1.1"}
    (neighbour,) = pod.neighbours
    assert (neighbour.address, neighbour.mac) == ("169.254.1.1", nic.peer_mac)


def test_a_cluster_node_knows_its_own_pods() -> None:
    """A node has a route and a permanent neighbour for each pod on it, and for no other."""
    spaces = spaces_of()
    node = spaces["agent-0"]
    pods = {
        name: space.nics[0]
        for name, space in spaces.items()
        if space.pod and space.nics[0].peer_space == "agent-0"
    }
    assert set(pods) == {"red/shop-v1", "blue/client"}
    through_cali = {route.destination: route.device for route in node.routes if route.device}
    assert through_cali == {nic.addresses[0]: nic.peer_name for nic in pods.values()}
    neighbours = {(entry.device, entry.address, entry.mac) for entry in node.neighbours}
    assert neighbours == {
        (nic.peer_name, nic.addresses[0].partition("/")[0], nic.mac) for nic in pods.values()
    }


def test_blocks_are_routed_statically_without_bgp() -> None:
    """Where no routing daemon runs, each node has a route to every other's blocks; with BGP it has none."""
    without = spaces_of(LAB.replace("  bgp: {}\n", ""))
    assert routes(without["server-0"])["10.53.0.64/26"] == "172.19.0.3"
    assert "10.53.0.64/26" not in routes(spaces_of()["server-0"])


def test_further_addresses_lie_on_the_interface_of_their_network() -> None:
    """A proxy's virtual servers and pools answer ARP where they belong; inside addresses are on loopback."""
    bigip = spaces_of()["bigip"]
    by_tap = {nic.tap: nic.addresses for nic in bigip.nics}
    assert by_tap["bigip.dmz"] == ("10.4.0.2/24", "10.4.0.201/32", "10.4.0.211/32")
    assert by_tap["bigip.nodes"] == ("172.19.0.4/24",)
    assert bigip.loopback == ("100.64.0.1/32",)


def test_an_own_address_is_not_given_twice() -> None:
    """A virtual server at the node's own address adds no second one to the interface."""
    text = LAB.replace("on: {nodes: {}, dmz: {}}", "on: {nodes: {}, dmz: {address: 10.4.0.201}}")
    spaces = spaces_of(text)
    assert [nic.addresses for nic in spaces["bigip"].nics][1] == ("10.4.0.201/24", "10.4.0.211/32")


def test_every_interface_has_a_tap_of_its_own() -> None:
    """Both ends of a pod's link have names, every tap's name is unique and starts with its node's."""
    layout = layout_of()
    assert layout.taps["red/client", "eth0"] == "red/client.eth0"
    assert layout.taps["bigip", "eth1"] == "bigip.dmz"
    for (space, _), tap in layout.taps.items():
        assert tap.startswith(f"{space}.")
    assert len(set(layout.taps.values())) == len(layout.taps)


def test_hardware_addresses_and_device_names_are_unique() -> None:
    """No two interfaces share a hardware address, and none has a name that the kernel refuses (15 bytes)."""
    layout = layout_of()
    macs = [mac for space in layout.spaces for nic in space.nics for mac in (nic.mac, nic.peer_mac)]
    assert len(set(macs)) == len(macs)
    assert all(int(mac.partition(":")[0], 16) & 0b11 == 0b10 for mac in macs), (
        "locally administered, one receiver"
    )
    names = [name for space in layout.spaces for nic in space.nics for name in (nic.name, nic.peer_name)]
    assert max(map(len, names)) <= 15
    fabric = [nic.peer_name for space in layout.spaces for nic in space.nics if nic.bridge]
    assert len(set(fabric)) == len(fabric)


def test_only_routers_forward() -> None:
    """The kernel's forwarding is set explicitly everywhere, last to 1 where the node is a router."""
    last = {space.name: dict(space.sysctls)["net.ipv4.ip_forward"] for space in layout_of().spaces}
    assert {name for name, value in last.items() if value == "1"} == {
        "server-0",
        "agent-0",
        "bigip",
        "firewall",
    }


def test_a_pods_etc_is_its_own() -> None:
    """What a kind writes below etc/ lies in the pod's /etc: its resolv.conf with the search domains of Kubernetes."""
    etc = dict(spaces_of()["red/client"].etc)
    assert etc["resolv.conf"].splitlines() == [
        "nameserver 10.235.0.10",
        "search red.svc.cluster.local svc.cluster.local cluster.local",
        "options ndots:5",
    ]


def test_hosts_names_all_that_is_no_pod() -> None:
    """The lab's hosts file has each node outside and each cluster node once."""
    lines = [line.split() for line in layout_of().hosts.splitlines()]
    assert [name for _, name in lines] == [
        "server-0",
        "agent-0",
        "bigip",
        "firewall",
        "tinyproxy",
        "site.example",
    ]


PEERS = """\
lab: peers
networks: {nodes: {cidr: 10.1.0.0/24}, middle: {cidr: 10.2.0.0/24}, far: {cidr: 10.3.0.0/24}, side: {cidr: 10.4.0.0/24}}
cluster:
  nodes: [server-0]
  pools: {default: {cidr: 10.53.0.0/16}}
  services_cidr: 10.235.0.0/16
  bgp: {peers: {proxy: {node: proxy}}}
outside:
  host: {kind: router, on: [nodes, middle]}
  proxy: {kind: router, on: [middle, far]}
  visitor: {kind: client, on: [far]}
  site: {kind: website, on: [side]}
"""


def test_who_speaks_no_bgp_is_told_of_the_peer_that_is_nearer_to_the_pods() -> None:
    """A client behind the peer is; a router between the peer and the nodes is not, nor who has no way to it."""
    pods = {name: routes(space).get("10.53.0.0/16") for name, space in spaces_of(PEERS).items()}
    assert pods == {
        "server-0": None,
        "kube-system/kube-dns": None,
        "host": None,
        "proxy": None,
        "visitor": "10.3.0.2",
        "site": None,
    }


def test_a_peer_beside_the_nodes_is_the_way_for_all_beside_it() -> None:
    """Of two peers the nearer one counts, also for a router that is on the way to the other."""
    both = PEERS.replace("peers: {proxy: {node: proxy}}", "peers: {proxy: {node: proxy}, edge: {node: edge}}")
    spaces = spaces_of(both + "  edge: {kind: router, on: [nodes]}\n")
    assert routes(spaces["host"])["10.53.0.0/16"] == "10.1.0.4"
    assert routes(spaces["visitor"])["10.53.0.0/16"] == "10.3.0.2"
