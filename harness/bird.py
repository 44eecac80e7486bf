"""BIRD 2: its configuration for nodes and routers, and where its control socket is.

Timers between nodes are those of Calico's own templates; a peer's are the lab file's. Sessions begin at the nodes:
peers wait for them, so that whatever a peer opens by itself is somebody's traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

from harness.lab import Peer
from harness.lab_words import seconds_of
from harness.plan import Bindings, File, Node, Plan, Program, Ready, Runtime

NAME = "bird"
"""What the program is called on each node that runs it."""

HAND_WRITTEN, FROM_BIRD = 0, 32
"""Metrics in the kernel: a route written by hand wins over one of BIRD's (its own default) to the same prefix."""

_HEAD = """\
router id {address};
log stderr {{ warning, error, fatal, bug }};
protocol device {{ scan time 10; }}
protocol direct {{ ipv4; interface "eth*"; }}
"""
_NODE = """\
protocol kernel {{
  persist;
  graceful restart;
  ipv4 {{ import none; export where source = RTS_BGP || source = RTS_STATIC; }};
}}
protocol static blocks {{
  ipv4;
{blocks}
}}
template bgp peer {{
  local {address} as {asn};
  graceful restart;
  graceful restart time 120;
  connect delay time 1;
  connect retry time 3;
  error wait time 5,60;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
{sessions}
"""
_PEER = """\
protocol kernel {{
  learn;
  {restart}
  ipv4 {{ import all; export where source = RTS_BGP; }};
}}
template bgp node {{
  local {address} as {asn};
  passive;
  {session}
  ipv4 {{ import all; export none; }};
}}
{sessions}
"""


def control(node: str, bindings: Bindings) -> str:
    """Return the path of the control socket of a node's BIRD."""
    return f"{bindings.folder(node)}/bird.ctl"


def runs_on(node: Node, plan: Plan) -> bool:
    """Tell whether a node runs BIRD: each cluster node does where there is a mesh or a peer, and each peer."""
    bgp = plan.lab.cluster.bgp if plan.lab.cluster else None
    if bgp is None:
        return False
    if node.placement == "cluster-node":
        return bgp.mesh or bool(bgp.peers)
    return any(peer.node == node.name for peer in bgp.peers.values())


def of_node(node: Node, plan: Plan, bindings: Bindings) -> Runtime:
    """Return a cluster node's BIRD, which announces its blocks and learns the others'; nothing without BGP."""
    bgp = plan.lab.cluster.bgp if plan.lab.cluster else None
    if bgp is None or not runs_on(node, plan):
        return Runtime()
    others = [other for other in plan.cluster_nodes if other.name != node.name] if bgp.mesh else []
    sessions = [
        f"protocol bgp mesh_{_symbol(other.name)} from peer"
        f" {{ neighbor {bindings.address(other)} as {bgp.asn}; }}"
        for other in others
    ]
    for name, peer in bgp.peers.items():
        there = plan.node(peer.node)
        sessions.append(
            f"protocol bgp peer_{_symbol(name)} from peer {{\n"
            f"  neighbor {session_address(there, plan, bindings)} as {peer.asn or bgp.asn};\n"
            f"  {_session(peer, attached=_is_attached(there, plan))}\n}}"
        )
    address = bindings.address(node)
    blocks = "\n".join(f"  route {block} blackhole;" for block in bindings.blocks[node.name])
    config = _HEAD.format(address=address) + _bfd(bgp.peers.values())
    config += _NODE.format(address=address, asn=bgp.asn, blocks=blocks, sessions="\n".join(sessions))
    learned = [block for other in others for block in bindings.blocks[other.name]]
    return _runtime(node, bindings, config, learned)


def of_peer(node: Node, plan: Plan, bindings: Bindings) -> Runtime:
    """Return the BIRD of a node outside that is a peer of the cluster's nodes; nothing for any other."""
    bgp = plan.lab.cluster.bgp if plan.lab.cluster else None
    peer = next((one for one in bgp.peers.values() if one.node == node.name), None) if bgp else None
    if bgp is None or peer is None:
        return Runtime()
    address = session_address(node, plan, bindings)
    sessions = [
        f"protocol bgp node_{_symbol(other.name)} from node"
        f" {{ neighbor {bindings.address(other)} as {bgp.asn}; }}"
        for other in plan.cluster_nodes
    ]
    config = _HEAD.format(address=address) + _bfd([peer])
    config += _PEER.format(
        address=address,
        asn=peer.asn or bgp.asn,
        restart="persist; graceful restart;" if seconds_of(peer.graceful_restart) else "",
        session=_session(peer, attached=_is_attached(node, plan)),
        sessions="\n".join(sessions),
    )
    learned = [block for other in plan.cluster_nodes for block in bindings.blocks[other.name]]
    return _runtime(node, bindings, config, learned)


def session_address(node: Node, plan: Plan, bindings: Bindings) -> IPv4Address:
    """Return the address of a node outside that the cluster's nodes know it by: on the network nearest to theirs."""
    own = [network for network, _ in node.on]
    nearest = next(network for network in _by_distance(plan) if network in own)
    return bindings.addresses[node.name, nearest]


def distance(node: Node, plan: Plan) -> int | None:
    """Return a number that is lower for who is nearer to the cluster's nodes, 0 beside them; None without a way."""
    own = [network for network, _ in node.on]
    return next((number for number, network in enumerate(_by_distance(plan)) if network in own), None)


def _by_distance(plan: Plan) -> Iterator[str]:
    """Yield the networks that the cluster's network is connected to, the nearest first, itself before all."""
    if plan.lab.cluster is None:
        return
    found = [plan.lab.cluster.network]
    for network in found:
        yield network
        for router in plan.nodes:
            joined = [name for name, _ in router.on]
            if router.forwards and router.placement == "outside" and network in joined:
                found += [name for name in joined if name not in found]


def _is_attached(node: Node, plan: Plan) -> bool:
    return plan.lab.cluster is not None and plan.lab.cluster.network in [network for network, _ in node.on]


def _session(peer: Peer, *, attached: bool) -> str:
    """Return what both ends of a session say alike."""
    restart = seconds_of(peer.graceful_restart)
    words = [
        f"hold time {seconds_of(peer.hold_time):g}; error wait time 1,5;",
        f"graceful restart; graceful restart time {restart:g};" if restart else "graceful restart off;",
        "direct;" if attached else "multihop;",
    ]
    if peer.bfd is not None:
        interval = f"{seconds_of(peer.bfd.interval) * 1000:g} ms"
        words.append(f"bfd {{ interval {interval}; multiplier {peer.bfd.multiplier}; }};")
    return " ".join(words)


def _bfd(peers: Iterable[Peer]) -> str:
    return "protocol bfd { }\n" if any(peer.bfd for peer in peers) else ""


def _runtime(node: Node, bindings: Bindings, config: str, learned: Sequence[IPv4Network]) -> Runtime:
    path = control(node.name, bindings)
    ready = Ready("routes", f"{path} {','.join(map(str, learned))}") if learned else Ready()
    argv = ("bird", "-f", "-c", f"{bindings.folder(node.name)}/bird.conf", "-s", path)
    program = Program(NAME, argv, ready, capable=True, first=True, applied=Ready("rereads", path))
    return Runtime(programs=(program,), files=(File("bird.conf", config, live=True),))


def _symbol(name: str) -> str:
    """Return a name as BIRD's symbols are written: letters, digits and `_`."""
    return name.replace("-", "_").replace(".", "_")
