"""A lab whose cluster is k3d's: its networks, the cluster with Calico, the lab's objects in it, the nodes outside.

In this order: the cluster's nodes get their addresses from the engine and are asked for them; pods have those of the
plan; so the nodes outside, whose BIRD wants the routes to pods, come last. Scenarios are not run on it yet: what stands
here is looked at by tests/k3d, and by kubectl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from harness.agent.layout import Payload
from harness.agent.state import State, first_state, payload_of
from harness.drivers.k3d import calico, cluster_file, image, istio, manifest, outside, parts, standing, store
from harness.drivers.k3d.cluster import (
    Cluster,
    ready_nodes,
    ready_pods,
    restored_sysctls,
    with_sysctls_kept,
)
from harness.drivers.k3d.engine import LAB, connect
from harness.drivers.k3d.fleet import Fleet
from harness.drivers.k3d.objects import Settings
from harness.drivers.k3d.pins import Pins, pins
from harness.drivers.k3d.render import missing, objects
from harness.errors import InputError, LabError, MissingCapability, StartError

if TYPE_CHECKING:
    from docker import DockerClient

    from harness.drivers.k3d.api import Api
    from harness.plan import Plan

NODES_SECONDS = 240.0
PODS_SECONDS = 240.0
Told = Callable[[str], None]


@dataclass(frozen=True)
class ClusterLab:
    """What stands: the cluster's API, the addresses as they are, the nodes outside, and each node's container."""

    api: Api
    state: State
    outside: Fleet
    containers: dict[str, str]
    pods: dict[str, str]


@contextmanager
def standing_up(plan: Plan, lab: str, told: Told) -> Iterator[ClusterLab]:
    """Yield a lab with a real cluster, and take all of it down afterwards, whatever happened.

    Raises MissingCapability for what such a cluster cannot do for this lab, StartError with the reason where it does
    not come up.
    """
    network = _cluster_network(plan)
    for capability, reason in missing(plan).items():
        raise MissingCapability(capability, reason)
    if istio.is_wanted(plan):
        raise MissingCapability(
            "istio", "a cluster that is made for a lab has no Istio; this driver installs none"
        )
    client, pinned = connect(), pins()
    saved = store.folder() / "host-sysctls"
    containers = cluster_file.containers(plan, lab)
    cluster = Cluster(lab, list(containers.values()), lambda name: _last_words(client, name), told)
    try:
        standing.take_away(client, lab)
        own = image.ensure(client, lab, told)
        _pull(client, pinned, told)
        state = first_state(plan, standing.binding(plan))
        payload = payload_of(state, lab, ("", ""), in_image=True)
        outside.make_networks(client, lab, _networks(payload, network))
        with_sysctls_kept(saved, told)
        second = str(client.info().get("CgroupVersion", "2")) == "2"
        full = outside.full_name(lab, network)
        words = {"image": pinned.k3s, "pause": pinned.pause}
        api = cluster.create(cluster_file.configuration(plan, lab, full, words, second=second))
        try:
            made = _filled(plan, lab, own, pinned, api, cluster, state, client, told)
            try:
                yield made
            finally:
                made.outside.close()
        finally:
            api.close()
    finally:
        left = cluster.delete()
        try:
            standing.take_away(client, lab)
        except LabError as error:
            left.append(str(error))
        for sentence in (*restored_sysctls(saved), *left):
            told(sentence)
        client.close()


def _filled(  # noqa: PLR0913 - all that a lab in a cluster is made of
    plan: Plan,
    lab: str,
    own: str,
    pinned: Pins,
    api: Api,
    cluster: Cluster,
    state: State,
    client: DockerClient,
    told: Told,
) -> ClusterLab:
    settings = Settings(lab, own, calico=pinned.calico_group)
    containers = cluster_file.containers(plan, lab)
    cluster.bring([own, pinned.pause, *pinned.calico_images])
    place = pinned.calico_manifest
    url = place.startswith("https://")
    checksum = pinned.calico_sha256 or (manifest.first_sum(place, told) if url else "")
    told(f"installing Calico {pinned.calico}")
    api.apply_all(calico.installed(manifest.objects_from(place, checksum), plan, settings, pinned.iptables))
    told(f"waiting for {len(containers)} cluster nodes to be ready")
    found = ready_nodes(api, len(containers), NODES_SECONDS)
    state = observed(state, {node: found[name] for node, name in containers.items()})
    every = objects(plan, state.bindings, state.certificates, settings)
    told(f"applying {len(every)} objects")
    for one in every:
        api.create_pod(one) if one["kind"] == "Pod" else api.apply(one)
    pods = [one for one in every if one["kind"] == "Pod"]
    told(f"waiting for {len(pods)} pods to be ready")
    addresses = ready_pods(api, f"{LAB}={lab}", len(pods), PODS_SECONDS)
    _as_planned(addresses, state)
    payload = payload_of(state, lab, ("", ""), in_image=True)
    fleet = Fleet(client, lab, own, owned=True)
    names = {node.name for node in plan.nodes if node.placement == "outside"}
    told(f"starting {len(names)} nodes outside")
    fleet.make([one for one in parts.containers(payload) if one.name in names])
    fleet.connect()
    return ClusterLab(api, state, fleet, containers, addresses)


def observed(state: State, nodes: dict[str, str]) -> State:
    """Return a state with the addresses that the cluster's nodes really have."""
    bindings = state.bindings
    addresses = dict(bindings.addresses)
    for node in state.plan.cluster_nodes:
        addresses[node.name, node.on[0][0]] = IPv4Address(nodes[node.name])
    return replace(state, bindings=replace(bindings, addresses=addresses))


def _as_planned(found: dict[str, str], state: State) -> None:
    """See that every pod has the address that it was to have; raises StartError."""
    other = {
        name: (found.get(name), str(address))
        for name, address in state.bindings.pods.items()
        if found.get(name) != str(address)
    }
    for name, (has, wanted) in other.items():
        raise StartError(
            f"{name} has the address {has} and was to have {wanted}: Calico did not take its annotation"
        )


def _cluster_network(plan: Plan) -> str:
    if plan.lab.cluster is None:
        raise InputError(f"lab {plan.lab.lab!r} has no cluster")
    return plan.lab.cluster.network


def _networks(payload: Payload, cluster: str) -> list[parts.Network]:
    """Return the lab's networks; on the cluster's, the engine gives addresses away from the upper half only."""
    return [
        replace(one, given=cluster_file.given_away(one.cidr)) if one.name == cluster else one
        for one in parts.networks(payload)
    ]


def _pull(client: DockerClient, pinned: Pins, told: Told) -> None:
    """Have the engine pull what it lacks; raises StartError with the way without a registry."""
    from docker.errors import DockerException  # noqa: PLC0415 - costs 0.26 s

    for name in pinned.images:
        if client.api.images(name, quiet=True):
            continue
        told(f"pulling {name}")
        try:
            client.images.pull(name)
        except DockerException as error:
            raise StartError(
                f"image {name} is not at the engine and cannot be pulled ({error}); "
                "`docker load` it from an archive (docs/k3d.md, Without a registry)"
            ) from error


def _last_words(client: DockerClient, container: str) -> str | None:
    """Return what a container printed last when it has ended, None while it runs or is not there yet."""
    from docker.errors import NotFound  # noqa: PLC0415 - costs 0.26 s

    try:
        state = client.api.inspect_container(container)["State"]
        if state["Status"] in ("created", "running"):
            return None
        return str(client.api.logs(container, tail=30).decode(errors="replace")) or "it printed nothing"
    except NotFound:
        return None
