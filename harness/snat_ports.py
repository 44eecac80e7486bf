"""SNAT pools whose addresses have few ports: who finds none left is refused, and a log entry says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from harness.lab import Form
from harness.plan import counter_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

EXHAUSTED = "snat-exhausted"
"""What a gateway calls the denial of a connection for which there is no port left."""

_LAST_PORT = 65535


def _port_range(value: str) -> str:
    first, _, last = value.partition("-")
    if not 1 <= int(first) <= int(last) <= _LAST_PORT:
        raise ValueError(
            f"{value!r} is no range of ports: they are 1 to {_LAST_PORT}, the first before the last"
        )
    return value


PortRange = Annotated[
    str,
    Form(r"^[0-9]{1,5}-[0-9]{1,5}$", "a range of ports such as 20000-20015"),
    AfterValidator(_port_range),
]


def chosen(pool: tuple[IPv4Address, ...], chains: str) -> str:
    """Return what leads to the chain of a client's address of a pool, by a hash of the client's own."""
    if len(pool) == 1:
        return f"goto {chains}_0"
    members = ", ".join(f"{index} : goto {chains}_{index}" for index in range(len(pool)))
    return f"jhash ip saddr mod {len(pool)} seed 0x1 vmap {{ {members} }}"


def rooms(mark: int, pool: tuple[IPv4Address, ...], ports: str, group: int) -> Iterator[str]:
    """Yield what refuses a connection for which an address of a pool has no port left, and what translates the others.

    A port can be used once towards each destination. The kernel, which finds none, would drop the packet and tell
    nobody. Closed connections do not count (ct(8), `ct count`).
    """
    first, _, last = ports.partition("-")
    most = int(last) - int(first) + 1
    for index, address in enumerate(pool):
        full = (
            f"counter name {counter_name('rule', EXHAUSTED)}"
            f' log prefix "reject {EXHAUSTED} {address} has no port left" group {group} reject'
        )
        used = f"add @used_{mark}_{index} {{ ip daddr . meta l4proto . th dport ct count over {most} }}"
        yield f"  set used_{mark}_{index} {{ type ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic; }}"
        yield f"  chain room_{mark}_{index} {{"
        yield f"    meta l4proto tcp {used} {full} with tcp reset"
        yield f"    meta l4proto udp {used} {full}"
        yield "  }"
        yield f"  chain snat_{mark}_{index} {{"
        yield f"    meta l4proto {{ tcp, udp }} snat to {address}:{ports}"
        yield f"    snat to {address}"
        yield "  }"
    yield f"  chain room_{mark} {{"
    yield f"    {chosen(pool, f'room_{mark}')}"
    yield "  }"
