"""A rtnetlink socket: batches of requests go out in one system call, dumps and events come in."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from harness.errors import LabError, LostEvidence
from harness.netlink import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.netlink.requests import Message

_SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK = 10, 11
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_NEWROUTE, _DELROUTE = 24, 25
_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE = 18, 22, 26, 30, 34
_REQUEST, _MULTI, _ACK, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x2, 0x4, 0x10, 0x300
_CAPPED, _ACK_TLVS = 0x100, 0x200
_ROUTE_GROUPS = (1 << 6) | (1 << 10)  # RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
_LARGEST_SEND = 1 << 16  # a send buffer that nobody enlarged takes 200 KB
_RECEIVE = 1 << 20
_DUMP_ATTEMPTS = 20
_HEADER = struct.Struct("=IHHII")

T = TypeVar("T")


class NetlinkError(LabError):
    """The kernel refused a message of a batch: `index` counts from 0, `text` is its own word, if any."""

    def __init__(self, number: int, index: int, description: str, text: str) -> None:
        self.errno = number
        self.index = index
        self.description = description
        self.text = text
        said = f" ({text})" if text else ""
        super().__init__(f"cannot {description}: {os.strerror(number)}{said}")

    def __reduce__(self) -> tuple[type[NetlinkError], tuple[int, int, str, str]]:
        return type(self), (self.errno, self.index, self.description, self.text)


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A route came (`added`, also when it replaced another) or went."""

    added: bool
    route: records.Route


class Socket:
    """A socket in the network namespace that the calling thread is in now; it stays there for good.

    Any thread may use it, one at a time.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._events: list[RouteEvent] = []
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; what it made stays."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, readable when an event came."""
        return self._socket.fileno()

    def send(self, batch: Sequence[Message]) -> None:
        """Have all of a batch done, in order.

        Raises NetlinkError for the first message that the kernel refused. Those behind it were tried too, up
        to the end of the piece of at most 64 KB in which they were sent.
        """
        with self._turn:
            start = 0
            while start < len(batch):
                start = self._send_piece(batch, start)

    def links(self) -> tuple[records.Link, ...]:
        """Return all interfaces."""
        return self._dump(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0), records.link)

    def addresses(self) -> tuple[records.Address, ...]:
        """Return all addresses of all interfaces."""
        return self._dump(_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0), records.address)

    def routes(self, table: int | None = None) -> tuple[records.Route, ...]:
        """Return the routes of a table, or of all with table 255, `local`, among them."""
        found = self._dump(_GETROUTE, struct.pack("=BBBBBBBBI", *(0,) * 9), records.route)
        return tuple(route for route in found if table is None or route.table == table)

    def rules(self) -> tuple[records.Rule, ...]:
        """Return all policy rules, the kernel's own among them."""
        return self._dump(_GETRULE, struct.pack("=BBBBBBBBI", *(0,) * 9), records.rule)

    def neighbours(self) -> tuple[records.Neighbour, ...]:
        """Return the neighbour tables of IPv4 and IPv6."""
        found = self._dump(_GETNEIGH, struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0), records.neighbour)
        return tuple(entry for entry in found if entry is not None)

    def subscribe(self) -> None:
        """Tell of every change of a route from now on: wait until the socket is readable, then `read_events`.

        Dump after this call, not before, so that no change falls between. Use a socket that does nothing else
        where a thread waits: the answers to requests make it readable as well.
        """
        self._socket.bind((self._socket.getsockname()[0], _ROUTE_GROUPS))

    def read_events(self) -> list[RouteEvent]:
        """Return the changes that came, without waiting.

        Raises LostEvidence when the kernel had to drop some: dump again.
        """
        with self._turn:
            while True:
                try:
                    data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self._events.clear()
                    raise LostEvidence(
                        "the kernel dropped changes of routes that nobody read in time"
                    ) from None
                for kind, _, _, body in _split(data):
                    self._keep_event(kind, body)
            found, self._events = self._events, []
            return found

    def _keep_event(self, kind: int, body: bytes) -> None:
        if kind in (_NEWROUTE, _DELROUTE):
            self._events.append(RouteEvent(kind == _NEWROUTE, records.route(body)))

    def _send_piece(self, batch: Sequence[Message], start: int) -> int:
        """Send what fits from `start` on, and return where the next piece starts."""
        base = self._sequence
        parts: list[bytes] = []
        size, end = 0, start
        while end < len(batch):
            length = _HEADER.size + len(batch[end].body)
            if parts and size + length > _LARGEST_SEND:
                break
            size += length
            end += 1
            message = batch[end - 1]
            # bodies are made of attributes, so they end on a multiple of 4 bytes as the kernel wants
            parts += (_HEADER.pack(length, message.kind, message.flags, base + end - start, 0), message.body)
        last = batch[end - 1]
        parts[-2] = _HEADER.pack(
            _HEADER.size + len(last.body), last.kind, last.flags | _ACK, base + end - start, 0
        )
        self._sequence = base + end - start
        self._socket.send(b"".join(parts))
        for number, sequence, text in self._acknowledgements(self._sequence):
            if number:
                index = start + sequence - base - 1
                self._drain_until(self._sequence, sequence)
                raise NetlinkError(number, index, batch[index].description, text)
        return end

    def _drain_until(self, last: int, sequence: int) -> None:
        """Read the answers behind the one to `sequence`, so that the next batch does not find them."""
        if sequence != last:
            for _ in self._acknowledgements(last):
                pass

    def _acknowledgements(self, last: int) -> Iterator[tuple[int, int, str]]:
        """Yield (errno or 0, sequence number, text) until the answer to `last`."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise NetlinkError(
                    errno.ENOBUFS, 0, "read the answers", "too many messages of one batch were refused"
                ) from None
            done = False
            for kind, flags, sequence, body in _split(data):
                if kind != _ERROR:
                    self._keep_event(kind, body)
                    continue
                yield -struct.unpack_from("=i", body)[0], sequence, _explanation(flags, body)
                done = done or sequence == last
            if done:
                return

    def _dump(self, kind: int, body: bytes, decode: Callable[[bytes], T]) -> tuple[T, ...]:
        with self._turn:
            for _ in range(_DUMP_ATTEMPTS):
                found = self._dump_once(kind, body, decode)
                if found is not None:
                    return tuple(found)
        raise LostEvidence("the kernel's tables changed each time while they were read")

    def _dump_once(self, kind: int, body: bytes, decode: Callable[[bytes], T]) -> list[T] | None:
        """Return None when the table changed meanwhile, so that an entry may be missing."""
        self._sequence += 1
        self._socket.send(
            _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, self._sequence, 0) + body
        )
        found: list[T] = []
        whole = True
        while True:
            for answer, flags, sequence, content in _split(self._socket.recv(_RECEIVE)):
                if not flags & _MULTI and answer != _ERROR:
                    self._keep_event(answer, content)
                    continue
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & _DUMP_INTERRUPTED
                if answer == _DONE:
                    return found if whole else None
                if answer == _ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise NetlinkError(number, 0, "read the kernel's table", _explanation(flags, content))
                found.append(decode(content))


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and body of each message."""
    offset, end = 0, len(data)
    while offset + _HEADER.size <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _explanation(flags: int, body: bytes) -> str:
    """Return NLMSGERR_ATTR_MSG; the request's header lies before it, or all of the request unless capped."""
    if not flags & _ACK_TLVS:
        return ""
    length = struct.unpack_from("=I", body, 4)[0]
    offset = 4 + (_HEADER.size if flags & _CAPPED else (length + 3) & ~3)
    return records.attributes(body, offset).get(1, b"").rstrip(b"\0").decode(errors="replace")
