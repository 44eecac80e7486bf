"""The network of bench/stand_up.py by Mininet's Python API; started by bench/cycle.py in namespaces of its own.

Prints two numbers: seconds until it stands, and seconds until it is down again. A host is a pod, a node that forwards a
cluster node; their nodes are joined by a bridge of the kernel.
"""

from __future__ import annotations

import sys
import time

from mininet.net import Mininet
from mininet.node import Node


def main(nodes: int, pods: int) -> None:
    """Build, start, stop."""
    begun = time.monotonic()
    net = Mininet(controller=None, build=False)
    fabric = net.addHost("fabric", cls=Node, ip=None)
    fabric.cmd("ip link add br0 type bridge && ip link set br0 up")
    routers = []
    for number in range(nodes):
        router = net.addHost(f"n{number}", cls=Node, ip=None)
        link = net.addLink(router, fabric, intfName1=f"n{number}-up", intfName2=f"f{number}")
        fabric.cmd(f"ip link set {link.intf2.name} master br0 up")
        router.setIP(f"172.19.0.{number + 2}", 16, intf=link.intf1)
        router.cmd("sysctl -qw net.ipv4.ip_forward=1")
        routers.append(router)
    for number, router in enumerate(routers):
        for other in range(nodes):
            if other != number:
                router.cmd(f"ip route add 10.53.{other}.0/24 via 172.19.0.{other + 2}")
    for pod in range(pods):
        node, index = pod % nodes, pod // nodes + 2
        host = net.addHost(f"p{pod}", ip=None)
        link = net.addLink(host, routers[node], intfName1=f"p{pod}-eth0", intfName2=f"c{pod}")
        host.setIP(f"10.53.{node}.{index}", 32, intf=link.intf1)
        host.cmd(f"ip route add 169.254.1.1 dev {link.intf1.name}")
        host.cmd(f"ip route add default via 169.254.1.1 dev {link.intf1.name}")
        routers[node].cmd(f"ip route add 10.53.{node}.{index}/32 dev {link.intf2.name}")
    net.start()
    up = time.monotonic() - begun
    net.stop()
    print(up, time.monotonic() - begun)


main(int(sys.argv[1]), int(sys.argv[2]))
