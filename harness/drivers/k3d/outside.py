"""Networks and containers of a lab at the engine: made, and removed by label."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from harness.agent.container import OWNED, PAYLOAD
from harness.drivers.k3d.engine import LAB, NETWORK, NODE
from harness.drivers.k3d.image import CODE
from harness.drivers.k3d.parts import Container, Network
from harness.errors import LabError, StartError

if TYPE_CHECKING:
    from docker import DockerClient

_THREADS = 4
_LOOKS = 4
_QUIET_BRIDGE = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
"""The engine's bridge is a switch of the lab, not its way out."""


def full_name(lab: str, part: str) -> str:
    """Return what a lab's container or network is called at the engine."""
    return f"egresslab-{lab}-{part}"


def make_networks(client: DockerClient, lab: str, networks: Iterable[Network]) -> None:
    """Make the lab's networks; raises StartError that names whose a subnet is already."""
    from docker.errors import APIError  # noqa: PLC0415 - costs 0.26 s
    from docker.types import IPAMConfig, IPAMPool  # noqa: PLC0415 - as above

    present = client.api.networks()
    for network in networks:
        if owner := _owner_of(network.cidr, present):
            raise StartError(
                f"network {network.name!r} of the lab is {network.cidr}, which {owner}; take that down first, "
                "or give the lab's network another cidr"
            )
        given = str(network.given) if network.given else None
        pool = IPAMPool(subnet=str(network.cidr), gateway=str(network.gateway), iprange=given)
        try:
            client.api.create_network(
                full_name(lab, network.name),
                driver="bridge",
                ipam=IPAMConfig(pool_configs=[pool]),
                options=_QUIET_BRIDGE | {"com.docker.network.driver.mtu": str(network.mtu)},
                labels={LAB: lab, NETWORK: network.name},
            )
        except APIError as error:
            raise StartError(f"network {network.name!r} ({network.cidr}): {error.explanation}") from error


def _owner_of(cidr: IPv4Network, present: Sequence[dict[str, Any]]) -> str | None:
    for other in present:
        for pool in (other.get("IPAM") or {}).get("Config") or ():
            with suppress(ValueError, KeyError):  # the engine has networks of IPv6 too
                if IPv4Network(pool["Subnet"]).overlaps(cidr):
                    lab = (other.get("Labels") or {}).get(LAB)
                    whose = f"lab {lab!r}" if lab else f"network {other['Name']!r} of this Docker Engine"
                    return f"overlaps with {pool['Subnet']} of {whose}"
    return None


def make_containers(
    client: DockerClient, lab: str, image: str, containers: Sequence[Container], *, owned: bool
) -> dict[str, str]:
    """Make and start containers; returns their ids by name. Raises StartError."""
    from docker.errors import APIError  # noqa: PLC0415 - costs 0.26 s

    def make(container: Container) -> str:
        try:
            return _make(client, lab, image, container, owned=owned)
        except APIError as error:
            raise StartError(
                f"{container.name}: the engine refused its container: {error.explanation}"
            ) from error

    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip([one.name for one in containers], threads.map(make, containers), strict=True))


def _make(client: DockerClient, lab: str, image: str, container: Container, *, owned: bool) -> str:
    api = client.api
    (first, address), *others = container.cards
    network = full_name(lab, first)
    host = api.create_host_config(
        network_mode=network,
        cap_drop=["ALL"],
        cap_add=list(container.capabilities),
        security_opt=None if container.confined else ["seccomp=unconfined", "apparmor=unconfined"],
        sysctls=dict(container.sysctls),
    )
    made: str = api.create_container(
        image,
        ["python3", "-S", "-m", "harness.agent.container"],
        name=full_name(lab, container.name),
        hostname=container.name[:63],
        environment={"PYTHONPATH": CODE, **({OWNED: "yes"} if owned else {})},
        labels={LAB: lab, NODE: container.name},
        host_config=host,
        networking_config=api.create_networking_config(
            {network: api.create_endpoint_config(ipv4_address=str(address))}
        ),
    )["Id"]
    for other, given in others:
        api.connect_container_to_network(made, full_name(lab, other), ipv4_address=str(given))
    api.put_archive(made, "/", _archive(PAYLOAD, pickle.dumps(container.payload)))
    api.start(made)
    return made


def _archive(path: str, content: bytes) -> bytes:
    """Return a tar archive with one file that only root may read, and the folder that it is in."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        folder = tarfile.TarInfo(path.strip("/").rpartition("/")[0])
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        entry = tarfile.TarInfo(path.strip("/"))
        entry.size, entry.mode = len(content), 0o600
        archive.addfile(entry, io.BytesIO(content))
    return memory.getvalue()


def last_words(client: DockerClient, container: str) -> str | None:
    """Return what a container that has ended printed last; None while it runs."""
    found = client.api.inspect_container(container)
    if found["State"]["Running"]:
        return None
    words = client.api.logs(container, tail=30).decode(errors="replace").strip()
    return words or f"ended with exit status {found['State']['ExitCode']}"


def labs(client: DockerClient) -> dict[str, tuple[int, int]]:
    """Return the labs of which the engine has something: how many containers each has, and how many of them run."""
    found: dict[str, tuple[int, int]] = {}
    for network in client.api.networks(filters={"label": LAB}):
        found.setdefault(network["Labels"][LAB], (0, 0))
    for container in client.api.containers(all=True, filters={"label": LAB}):
        every, running = found.get(container["Labels"][LAB], (0, 0))
        found[container["Labels"][LAB]] = (every + 1, running + (container["State"] == "running"))
    return found


def remove(client: DockerClient, lab: str) -> list[str]:
    """Remove all that carries a lab's label; returns what could not be removed, and why.

    A container that a killed process asked for may come to be while we remove the others: hence a second look.
    """
    for _ in range(_LOOKS):
        found, left = _remove_once(client, lab)
        if not found:
            return []
    return left


def _remove_once(client: DockerClient, lab: str) -> tuple[int, list[str]]:
    """Remove what there is; returns how much that was, and what is left of it, and why."""
    wanted = {"label": f"{LAB}={lab}"}
    api = client.api
    containers = [one["Id"] for one in api.containers(all=True, filters=wanted)]
    networks = [one["Id"] for one in api.networks(filters=wanted)]
    volumes = [one["Name"] for one in api.volumes(filters=wanted)["Volumes"] or ()]
    with ThreadPoolExecutor(_THREADS) as threads:
        removals = [
            threads.submit(_removed, partial(api.remove_container, one, v=True, force=True))
            for one in containers
        ]
        left = [removal.result() for removal in removals]
    left += [_removed(partial(api.remove_network, one)) for one in networks]
    left += [_removed(partial(api.remove_volume, one)) for one in volumes]
    return len(containers) + len(networks) + len(volumes), [words for words in left if words]


def remove_container(client: DockerClient, container: str) -> None:
    """Remove a container; raises LabError when the engine does not."""
    words = _removed(partial(client.api.remove_container, container, v=True, force=True))
    if words:
        raise LabError(f"a container is not gone: {words}")


def remove_networks(client: DockerClient, lab: str, names: Iterable[str]) -> None:
    """Remove networks of a lab that nobody is on any more; raises LabError when the engine does not."""
    for name in names:
        words = _removed(partial(client.api.remove_network, full_name(lab, name)))
        if words:
            raise LabError(f"network {name!r} is not gone: {words}")


def _removed(remove_it: Callable[[], None]) -> str:
    """Remove something; whoever was faster has done it too."""
    from docker.errors import APIError, NotFound  # noqa: PLC0415 - costs 0.26 s

    try:
        remove_it()
    except NotFound:
        return ""
    except APIError as error:
        # another removal of the same thing is on its way
        return "" if "already in progress" in str(error.explanation) else str(error.explanation)
    return ""
