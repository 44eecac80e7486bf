"""A cluster node: routes for its pods, service DNAT as kube-proxy does it, natOutgoing and BGP as Calico does them."""

from __future__ import annotations

from harness.identity import Certificates
from harness.plan import Bindings, Node, Plan, Program, Ready, Runtime, endpoints
from harness.plan import File as NodeFile
from harness.route_checks import GATEWAY

FORWARDS = True

_BIRD = """\
router id {router_id};
log stderr {{ warning, error, fatal, bug }};
protocol device {{ scan time 10; }}
protocol direct {{ ipv4; interface "eth*"; }}
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
{peers}
"""


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return the node's rules and its BIRD; timers are those of Calico's own templates."""
    cluster = plan.lab.cluster
    if cluster is None:
        raise ValueError("a cluster node needs a cluster")
    rules = _service_rules(node, plan, bindings) + _nat_outgoing(plan)
    runtime = Runtime(rules=rules, sysctls=(("net.ipv4.ip_forward", "1"),))
    if cluster.bgp is None or not cluster.bgp.mesh:
        return runtime
    others = [other for other in plan.cluster_nodes if other.name != node.name]
    address = bindings.address(node)
    config = _BIRD.format(
        router_id=address,
        address=address,
        asn=cluster.bgp.asn,
        blocks="\n".join(f"  route {block} blackhole;" for block in bindings.blocks[node.name]),
        peers="\n".join(
            f"protocol bgp mesh_{index} from peer {{ neighbor {bindings.address(other)} as {cluster.bgp.asn}; }}"
            for index, other in enumerate(others)
        ),
    )
    folder = bindings.folder(node.name)
    learned = ",".join(str(block) for other in others for block in bindings.blocks[other.name])
    bird = Program(
        "bird",
        ("bird", "-f", "-c", f"{folder}/bird.conf", "-s", f"{folder}/bird.ctl"),
        Ready("routes", f"{folder}/bird.ctl {learned}") if learned else Ready(),
        capable=True,
        first=True,
    )
    return runtime.merged(Runtime(programs=(bird,), files=(NodeFile("bird.conf", config),)))


def _service_rules(node: Node, plan: Plan, bindings: Bindings) -> str:
    """Translate ClusterIPs to an endpoint, evenly; a pod that is its own endpoint is masqueraded (hairpin).

    An ingress gateway is reached from outside at its own node's address only, which keeps the client's address
    (Kubernetes: a service of type LoadBalancer with externalTrafficPolicy Local).
    """
    lines = [
        f"    ip daddr {bindings.address(node)} tcp dport {gateway.pod.spec.port}"
        f" dnat to {bindings.pods[gateway.name]}:{gateway.pod.spec.port}"
        for gateway in plan.of_kind(GATEWAY)
        if gateway.pod and gateway.host == node.name
    ]
    for name, service in plan.services.items():
        found = endpoints(plan, bindings, service)
        for protocol in ("udp", "tcp") if service.port == 53 else ("tcp",):
            match = f"ip daddr {bindings.cluster_ips[name]} {protocol} dport {service.port}"
            if not found:
                lines.append(f"    {match} reject")
                continue
            if len(found) == 1:
                target = f"dnat to {found[0][1]}:{found[0][2]}"
            else:
                chosen = ", ".join(f"{i} : {ip} . {port}" for i, (_, ip, port) in enumerate(found))
                target = f"dnat ip to numgen random mod {len(found)} map {{ {chosen} }}"
            lines.append(f"    {match} {target}")
    dnat = "\n".join(line for line in lines if not line.endswith("reject"))
    refused = "\n".join(line for line in lines if line.endswith("reject"))
    return f"""\
table ip services {{
  chain translate {{
{dnat}
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump translate; }}
  chain output {{ type nat hook output priority -100; jump translate; }}
  chain forward {{ type filter hook forward priority filter;
{refused}
  }}
}}
"""


def _nat_outgoing(plan: Plan) -> str:
    """Masquerade what leaves a natOutgoing pool for outside every pool (Calico, IPPool.spec.natOutgoing)."""
    cluster = plan.lab.cluster
    if cluster is None:
        return ""
    every = ", ".join(str(pool.cidr) for pool in cluster.pools.values())
    masked = ", ".join(str(pool.cidr) for pool in cluster.pools.values() if pool.nat_outgoing)
    if not masked:
        return "table ip nat_outgoing { chain seen { type filter hook forward priority filter; ct state new; } }\n"
    return f"""\
table ip nat_outgoing {{
  counter masqueraded {{ }}
  chain postrouting {{ type nat hook postrouting priority srcnat;
    ip saddr {{ {masked} }} ip daddr != {{ {every} }} counter name masqueraded masquerade
  }}
}}
"""
