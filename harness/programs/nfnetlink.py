"""The netfilter side of netlink, as far as events and log entries need it.

Source: linux/netfilter/nfnetlink.h. Numbers inside attributes are big-endian, unlike rtnetlink's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, MULTI, ACK, DUMP, CREATE = 0x1, 0x2, 0x4, 0x300, 0x400
ERROR, DONE = 2, 3
_NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33
_RECEIVE = 1 << 17
_NESTED = 0x8000
_KIND_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")

Attributes = dict[int, bytes]


class Channel:
    """A netfilter netlink socket in the network namespace that the calling thread is in now.

    `lost` counts how often the kernel had no room left for what it wanted to tell (ENOBUFS).
    """

    def __init__(self, groups: int = 0, buffer: int = 0) -> None:
        self.lost = 0
        self._sequence = 0
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            if buffer:
                self._enlarge(buffer)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the socket, and with it every subscription."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, readable when something came."""
        return self._socket.fileno()

    def request(self, kind: int, flags: int, family: int, resource: int, body: bytes) -> Iterator[bytes]:
        """Ask, and yield the bodies of what is answered, from the first attribute on.

        Raises OSError with the kernel's error number.
        """
        self._sequence += 1
        content = _GENERIC.pack(family, 0, resource) + body
        header = _HEADER.pack(_HEADER.size + len(content), kind, flags | REQUEST, self._sequence, 0)
        self._socket.send(header + content)
        while True:
            for answer, _, sequence, found in split(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if answer == DONE:
                    return
                if answer == ERROR:
                    number = -struct.unpack_from("=i", found)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield found[_GENERIC.size :]

    def messages(self, most: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, flags and body of up to about `most` messages that came, without waiting."""
        count = 0
        while count < most:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            for kind, flags, _, body in split(data):
                count += 1
                yield kind, flags, body[_GENERIC.size :]

    def _enlarge(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # outside a user namespace only; the other way net.core.rmem_max is the limit
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and body of each message."""
    offset, end = 0, len(data)
    while offset + _HEADER.size <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Attributes:
    """Split a run of attributes, the last of its kind winning."""
    found: Attributes = {}
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:  # a broken length would never end
            break
        found[kind & _KIND_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *inside: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(inside))


def number(raw: bytes | None) -> int:
    """Return a number of any size, 0 when it was not sent."""
    return int.from_bytes(raw, "big") if raw else 0
