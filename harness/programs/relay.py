"""From one connection to another, both ways, and the ends that a socket can come to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tls import CHUNK, TlsStream

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAIN_LIMIT = 5.0
"""Seconds that a closing socket's unacknowledged bytes are waited for."""

_TCP_CLOSE = 7
"""`tcpi_state` of a connection that is over (linux/net/tcp_states.h)."""


class BrokenError(Exception):
    """A connection's socket failed; the message says whose and how."""


@dataclass
class Traffic:
    """Decrypted bytes that came from the client, and that went to it."""

    bytes_in: int = 0
    bytes_out: int = 0


async def relay(client: TlsStream, upstream: socket.socket, traffic: Traffic) -> None:
    """Carry bytes both ways until both sides have ended, then close both sockets.

    Either side may end first. Nothing more is sent once this returns. Raises BrokenError when a socket
    failed; both are then left to the caller.
    """
    broken = ""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_to_upstream(client, upstream, traffic))
            group.create_task(_to_client(client, upstream, traffic))
    except* BrokenError as found:
        broken = str(found.exceptions[0])
    if broken:
        # raised here: Python 3.11.2, which is Debian 12's, wraps what `except*` itself raises in a group
        raise BrokenError(broken)
    await close_when_delivered(upstream)
    await close_when_delivered(client.sock)


async def _to_upstream(client: TlsStream, upstream: socket.socket, traffic: Traffic) -> None:
    loop = asyncio.get_running_loop()
    while True:
        with _blame("client"):
            data = await client.read()
        with _blame("upstream"):
            if not data:
                upstream.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(upstream, data)
        traffic.bytes_in += len(data)


async def _to_client(client: TlsStream, upstream: socket.socket, traffic: Traffic) -> None:
    loop = asyncio.get_running_loop()
    while True:
        with _blame("upstream"):
            data = await loop.sock_recv(upstream, CHUNK)
        with _blame("client"):
            if not data:
                await client.write_eof()
                return
            await client.write(data)
        traffic.bytes_out += len(data)


@contextlib.contextmanager
def _blame(side: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokenError(f"{side} failed: {name_of(error)}") from None


def name_of(error: OSError) -> str:
    """Return the name of an errno, or OpenSSL's reason words."""
    if isinstance(error, TimeoutError):
        return "ETIMEDOUT"
    reason: str | None = getattr(error, "reason", None)  # the number of an ssl.SSLError is no errno
    return reason or errno.errorcode.get(error.errno or 0, str(error))


async def read_out(sock: socket.socket, seconds: float) -> None:
    """Read and drop what comes until the peer ends, the connection breaks, or the time is up."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(seconds):
            while await asyncio.get_running_loop().sock_recv(sock, CHUNK):
                pass


def reset(sock: socket.socket) -> None:
    """Close with a RST, not a FIN: nothing more is sent, and the peer's next read fails with ECONNRESET."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


async def close_when_delivered(sock: socket.socket) -> None:
    """Close once the peer's kernel has acknowledged every byte, so that nothing is sent after this returns.

    Gives up after 5 s and resets: an event that says "closed" must stay true.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + DRAIN_LIMIT
    pause = 0.0005
    while _unacknowledged(sock):
        if loop.time() > until:
            reset(sock)
            return
        # The kernel has no event for "all acknowledged".
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.02)
    sock.close()


def _unacknowledged(sock: socket.socket) -> int:
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
        # After the peer's RST the kernel keeps the old count.
        return 0
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"), "little")
