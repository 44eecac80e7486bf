"""Plan + Bindings -> containers, on paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from harness.plan import Bindings, Node, Plan, Program, Runtime

POD_NETWORK = "pods"


@dataclass(frozen=True)
class Container:
    """One node lowered to a container; `image` is a role, `networks` are (network, address).

    `addresses` are further ones it holds; `files` (path, content, mode); `rules` nftables' own language.
    """

    name: str
    image: str
    networks: tuple[tuple[str, IPv4Address], ...]
    addresses: tuple[IPv4Address, ...]
    files: tuple[tuple[str, str, int], ...]
    programs: tuple[Program, ...]
    rules: str
    sysctls: tuple[tuple[str, str], ...]
    capabilities: tuple[str, ...]


def lower(plan: Plan, bindings: Bindings, runtimes: Mapping[str, Runtime]) -> tuple[Container, ...]:
    """Return the containers that the nodes come to, in the plan's order."""
    return tuple(_container(node, bindings, runtimes[node.name]) for node in plan.nodes)


def _container(node: Node, bindings: Bindings, runtime: Runtime) -> Container:
    folder = bindings.folder(node.name)
    if node.placement == "pod":
        networks: tuple[tuple[str, IPv4Address], ...] = ((POD_NETWORK, bindings.pods[node.name]),)
    else:
        networks = tuple((network, bindings.addresses[node.name, network]) for network, _ in node.on)
    needs_net_admin = bool(runtime.rules or runtime.addresses) or any(
        program.capable for program in runtime.programs
    )
    return Container(
        name=node.name,
        image="+".join(node.kinds),
        networks=networks,
        addresses=tuple(address for address in runtime.addresses if address not in dict(networks).values()),
        files=tuple((f"{folder}/{file.path}", file.content, file.mode) for file in runtime.files),
        programs=runtime.programs,
        rules=runtime.rules,
        sysctls=(("net.ipv4.ip_forward", str(int(node.forwards))), *runtime.sysctls),
        capabilities=("NET_ADMIN", "NET_RAW") if needs_net_admin else ("NET_RAW",),
    )
