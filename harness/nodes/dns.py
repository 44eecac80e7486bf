"""The cluster's DNS: dnsmasq in a pod of kube-system, answering for services and for the lab's outside names.

Names follow the Kubernetes DNS specification: <service>.<namespace>.svc.<cluster domain>.
"""

from __future__ import annotations

from harness.dual_stack import NAME, twin
from harness.identity import Certificates
from harness.plan import CLUSTER_DOMAIN, Bindings, Node, Plan, Program, Ready, Runtime
from harness.plan import File as NodeFile

FORWARDS = False


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return dnsmasq with one record for each service and each outside node, and NXDOMAIN for all else."""
    records = []
    for name, address in bindings.cluster_ips.items():
        namespace, _, service = name.partition("/")
        records.append(f"host-record={service}.{namespace}.svc.{CLUSTER_DOMAIN},{address}")
    records += [
        f"host-record={other.name},{bindings.address(other)}"
        for other in plan.nodes
        if other.placement == "outside"
    ]
    records += [
        f"host-record={NAME.format(other.name)},{six}"
        for other in plan.nodes
        if other.placement == "outside" and (six := twin(bindings.address(other), plan.lab)) is not None
    ]
    config = "\n".join(
        [
            "keep-in-foreground",
            "no-resolv",
            "no-hosts",
            "no-poll",
            "log-facility=-",
            "local=/#/",
            "local-ttl=5",
            *records,
        ]
    )
    folder = bindings.folder(node.name)
    argv = ("dnsmasq", "--conf-file=" + folder + "/dnsmasq.conf", "--pid-file=", "--user=", "--group=")
    program = Program("dnsmasq", argv, Ready("listens", "53"), capable=True)
    return Runtime(programs=(program,), files=(NodeFile("dnsmasq.conf", config + "\n"),))
