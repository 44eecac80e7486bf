"""A cluster node: services as kube-proxy has them, natOutgoing, policies and BGP as Calico has them."""

from __future__ import annotations

from harness import bird, network_policies, policy_routing
from harness.identity import Certificates
from harness.plan import Bindings, Node, Plan, Runtime, endpoints
from harness.route_checks import GATEWAY

FORWARDS = True
FORWARDS_IPV6 = True


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return the node's rules, its BIRD where the lab has BGP, its route controller where it has a way out."""
    if plan.lab.cluster is None:
        raise ValueError("a cluster node needs a cluster")
    rules = _service_rules(node, plan, bindings) + _nat_outgoing(plan)
    rules += network_policies.rules_of(node, plan, bindings)
    runtime = Runtime(rules=rules, sysctls=(("net.ipv4.ip_forward", "1"),))
    runtime = runtime.merged(bird.of_node(node, plan, bindings))
    return runtime.merged(policy_routing.of_node(node, plan, bindings))


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
        return """\
table ip nat_outgoing {
  chain seen { type filter hook forward priority filter;
    ct state new
  }
}
"""
    return f"""\
table ip nat_outgoing {{
  counter masqueraded {{ }}
  chain postrouting {{ type nat hook postrouting priority srcnat;
    ip saddr {{ {masked} }} ip daddr != {{ {every} }} counter name masqueraded masquerade
  }}
}}
"""
