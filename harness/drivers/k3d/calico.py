"""Calico's part of a lab: address pools and BGP as its resources, and its manifest changed as structure. Pure.

A lab's pools are assigned by hand only (`assignmentMode: Manual`): every pod of the lab is given its address by
annotation, and pods of the cluster itself get theirs from a pool of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from harness.bird import session_address
from harness.drivers.k3d.objects import Object, Settings, made
from harness.errors import InputError, StartError
from harness.lab_words import seconds_of

if TYPE_CHECKING:
    from harness.plan import Bindings, Plan

SYSTEM_PREFIX = 24
"""How large the pool of the cluster's own pods is."""
WIDEST = 8
_BARE = re.compile(r"(?<=[:\[,])(\s*)(__[A-Z0-9_]+__)(?=\s*[,}\]])")
"""A place holder where JSON would have a number: Calico's installer puts one there."""


def resources(plan: Plan, bindings: Bindings, settings: Settings) -> Iterator[Object]:
    """Yield a lab's pools, its BGP and its peers as Calico's resources."""
    cluster = plan.lab.cluster
    if cluster is None:
        return
    for name, pool in cluster.pools.items():
        spec: Object = {
            "cidr": str(pool.cidr),
            "blockSize": max(pool.block, pool.cidr.prefixlen),
            "ipipMode": pool.mode if pool.overlay == "ipip" else "Never",
            "vxlanMode": pool.mode if pool.overlay == "vxlan" else "Never",
            "natOutgoing": pool.nat_outgoing,
            "nodeSelector": "all()",
            "allowedUses": ["Workload", "Tunnel"] if pool.encapsulation != "none" else ["Workload"],
            "assignmentMode": "Manual",
        }
        yield made("IPPool", settings.calico, f"lab-{name}", settings, spec=spec)
    bgp = cluster.bgp
    meshed: Object = {
        "logSeverityScreen": "Info",
        "nodeToNodeMeshEnabled": bgp.mesh if bgp else True,
        "asNumber": bgp.asn if bgp else 64512,
    }
    yield made("BGPConfiguration", settings.calico, "default", settings, spec=meshed)
    for name, peer in bgp.peers.items() if bgp else ():
        spec = {
            "peerIP": str(session_address(plan.node(peer.node), plan, bindings)),
            "asNumber": peer.asn or (bgp.asn if bgp else 64512),
        }
        restart = seconds_of(peer.graceful_restart)
        if restart:
            spec["maxRestartTime"] = f"{restart:g}s"
        # hold time: the smaller of both ends' counts (RFC 4271, 4.2), and the peer outside says the lab file's
        yield made("BGPPeer", settings.calico, name, settings, spec=spec)


def cluster_cidr(plan: Plan) -> tuple[IPv4Network, IPv4Network]:
    """Return the range of all pods, in which every pool must lie, and within it the pool of the cluster's own pods.

    Raises InputError where no room is beside the lab's pools, networks and services.
    """
    cluster = plan.lab.cluster
    if cluster is None:
        raise InputError("the lab has no cluster")
    pools = [pool.cidr for pool in cluster.pools.values()]
    taken = [*pools, cluster.services_cidr, *(network.cidr for network in plan.lab.networks.values())]
    every = pools[0]
    while every.prefixlen >= WIDEST:
        if all(pool.subnet_of(every) for pool in pools) and every.prefixlen < SYSTEM_PREFIX:
            for free in every.subnets(new_prefix=SYSTEM_PREFIX):
                if not any(free.overlaps(one) for one in taken):
                    return every, free
        every = every.supernet()
    raise InputError(f"no /{SYSTEM_PREFIX} is free beside the pools {', '.join(map(str, pools))}")


def installed(manifest: Sequence[Object], plan: Plan, settings: Settings, backend: str) -> list[Object]:
    """Return Calico's manifest as a lab needs it; raises StartError that names what is not where it should be.

    `backend` is Felix's: `Auto`, `NFT` or `Legacy`. It must be the one that the machine's own rules are in.
    """
    changed = [deepcopy(found) for found in manifest]
    node = _one(changed, "DaemonSet", "calico-node")
    containers = node["spec"]["template"]["spec"]["containers"]
    container = next((one for one in containers if one.get("name") == "calico-node"), None)
    if container is None:
        raise StartError("Calico's manifest: DaemonSet calico-node has no container 'calico-node'")
    _set_environment(
        container.setdefault("env", []),
        {
            "CALICO_IPV4POOL_IPIP": "Never",
            "CALICO_IPV4POOL_VXLAN": "Never",
            "CALICO_IPV4POOL_CIDR": str(cluster_cidr(plan)[1]),
            "IP_AUTODETECTION_METHOD": "kubernetes-internal-ip",
            "FELIX_IPTABLESBACKEND": backend,
        },
    )
    config = _one(changed, "ConfigMap", "calico-config")
    try:
        config["data"]["cni_network_config"] = forwarding(config["data"]["cni_network_config"])
    except (KeyError, ValueError) as error:
        raise StartError(
            f"Calico's manifest: ConfigMap calico-config, cni_network_config: {error}"
        ) from error
    for found in changed:
        found["metadata"].setdefault("labels", {}).update(settings.labels)
    return changed


def forwarding(text: str) -> str:
    """Return a CNI configuration in which pods may forward packets; its place holders stay as they are."""
    config = json.loads(_BARE.sub(r'\1"\2<bare>"', text))
    plugin = next((one for one in config["plugins"] if one.get("type") == "calico"), None)
    if plugin is None:
        raise ValueError("no plugin of type 'calico'")
    plugin.setdefault("container_settings", {})["allow_ip_forwarding"] = True
    return re.sub(r'"(__[A-Z0-9_]+__)<bare>"', r"\1", json.dumps(config, indent=2))


def images(manifest: Sequence[Object]) -> tuple[str, ...]:
    """Return the images that a manifest's workloads are made of."""
    found: dict[str, None] = {}
    for one in manifest:
        spec = one.get("spec", {}).get("template", {}).get("spec", {})
        for kind in ("initContainers", "containers"):
            found |= dict.fromkeys(container["image"] for container in spec.get(kind) or ())
    return tuple(found)


def _one(manifest: Sequence[Object], kind: str, name: str) -> Object:
    for found in manifest:
        if found.get("kind") == kind and found.get("metadata", {}).get("name") == name:
            return found
    raise StartError(f"Calico's manifest has no {kind} {name!r}")


def _set_environment(environment: list[dict[str, Any]], wanted: dict[str, str]) -> None:
    left = dict(wanted)
    for entry in environment:
        if entry["name"] in left:
            value = left.pop(entry["name"])
            entry.pop("valueFrom", None)
            entry["value"] = value
    environment += [{"name": name, "value": value} for name, value in left.items()]
