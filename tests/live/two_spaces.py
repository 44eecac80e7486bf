"""Two network namespaces joined by a pair, and waits that end by event."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from own_namespace import here, move_to, new_network

from harness import netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NEAR_INDEX, FAR_INDEX = 2, 7


class Source(Protocol[T]):
    """What has a descriptor and yields items that came."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def read(self) -> list[T]:
        """Return what came, without waiting."""
        ...


def join() -> tuple[int, int]:
    """Join this namespace (10.0.0.1, eth0 is 2) and a new one (10.0.0.2, eth0 is 7)."""
    home, away = here(), new_network()
    with netlink.Socket() as near:
        near.send(
            [
                netlink.link_set(1, up=True),
                netlink.veth("eth0", NEAR_INDEX, NEAR_MAC, "eth0", FAR_INDEX, FAR_MAC, away),
                netlink.link_set(NEAR_INDEX, up=True),
                netlink.address(NEAR_INDEX, f"{NEAR}/24"),
                netlink.neighbour(NEAR_INDEX, FAR, FAR_MAC),
            ]
        )
    move_to(away)
    with netlink.Socket() as far:
        far.send(
            [
                netlink.link_set(1, up=True),
                netlink.link_set(FAR_INDEX, up=True),
                netlink.address(FAR_INDEX, f"{FAR}/24"),
                netlink.neighbour(FAR_INDEX, NEAR, NEAR_MAC),
            ]
        )
    move_to(home)
    return home, away


@contextmanager
def inside(home: int, network: int) -> Iterator[None]:
    """Be in another network namespace for a while."""
    move_to(network)
    try:
        yield
    finally:
        move_to(home)


def exchange(port: int, up: bytes, down: bytes, *, away: int, home: int) -> tuple[str, int]:
    """Have the far side serve one connection; return the client's address as the server saw it."""
    with inside(home, away):
        server = socket.create_server((FAR, port))
    seen: list[tuple[str, int]] = []

    def serve() -> None:
        link, address = server.accept()
        with link:
            seen.append(address)
            read_all(link, len(up))
            link.sendall(down)

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.create_connection((FAR, port), timeout=10) as client:
        client.sendall(up)
        assert read_all(client, len(down)) == down
        assert client.recv(1) == b""
    thread.join(10)
    server.close()
    return seen[0]


def read_all(link: socket.socket, count: int) -> bytes:
    """Read exactly this many bytes."""
    got = b""
    while len(got) < count:
        piece = link.recv(count - len(got))
        assert piece, "the other end closed early"
        got += piece
    return got


def read_until(source: Source[T], enough: Callable[[list[T]], object], seconds: float = 10) -> list[T]:
    """Read until `enough` is true of all that came; fails after some seconds."""
    found: list[T] = []
    deadline = time.monotonic() + seconds
    while not enough(found):
        assert select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0], f"only {found}"
        found += source.read()
    return found
