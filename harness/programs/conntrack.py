"""Connection tracking: events as flows begin and end, and the table (linux/netfilter/nfnetlink_conntrack.h).

A namespace tracks nothing until one of its nftables rules uses `ct` or a nat chain. Packets and bytes are
counted with net.netfilter.nf_conntrack_acct=1, times of start and end kept with
net.netfilter.nf_conntrack_timestamp=1, both of the namespace and for connections that begin afterwards.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from dataclasses import dataclass
from typing import Literal, Self

from harness.programs import nfnetlink as nf
from harness.programs.fivetuple import ICMP, ICMPV6, FiveTuple

SEEN_REPLY, ASSURED, CONFIRMED, SRC_NAT, DST_NAT, DYING = 0x2, 0x4, 0x8, 0x10, 0x20, 0x200
"""Bits of an entry's status (linux/netfilter/nf_conntrack_common.h)."""

_SUBSYSTEM = 1 << 8
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_GROUP_NEW, _GROUP_UPDATE, _GROUP_DESTROY = 1, 2, 4
_ORIGINAL, _REPLY, _STATUS, _MARK, _COUNT_ORIGINAL, _COUNT_REPLY, _ID, _TIMES, _EVENT_TIME = (
    1,
    2,
    3,
    8,
    9,
    10,
    12,
    20,
    27,
)
_BUFFER = 8 << 20
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Event:
    """What was told of one connection; `kind` is `entry` when it was read from the table.

    `time` is in ns since the epoch: the kernel's own where it tells (the time of the event, else of start or
    end), otherwise when it was read here. `original` is the direction of the first packet, before
    translation; `reply` is how answers arrive, hence after it. Counters are (packets, bytes), zero unless
    accounting is on.
    """

    time: int
    kind: Literal["new", "update", "destroy", "entry"]
    original: FiveTuple
    reply: FiveTuple
    status: int
    mark: int
    id: int
    sent: tuple[int, int]
    received: tuple[int, int]


class Events:
    """A subscription in the network namespace that the calling thread is in now; it stays there for good.

    `lost` counts how often the kernel dropped events because nobody read them in time; how many is not known.
    """

    def __init__(self, *, updates: bool = False) -> None:
        groups = _GROUP_NEW | _GROUP_DESTROY | (_GROUP_UPDATE if updates else 0)
        self._channel = nf.Channel(groups, _BUFFER)

    @property
    def lost(self) -> int:
        """How often events were dropped."""
        return self._channel.lost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, readable when an event came."""
        return self._channel.fileno()

    def read(self) -> list[Event]:
        """Return the events that came, some thousands at most, without waiting."""
        found: list[Event] = []
        for kind, flags, body in self._channel.messages(_AT_ONCE):
            if kind == _DELETE:
                word: Literal["new", "update", "destroy"] = "destroy"
            elif kind == _NEW:
                word = "new" if flags & nf.CREATE else "update"
            else:
                continue
            event = _event(word, body)
            if event is not None:
                found.append(event)
        return found

    def close(self) -> None:
        """End the subscription."""
        self._channel.close()


class Table:
    """The table of the network namespace that the calling thread was in; one thread at a time."""

    def __init__(self) -> None:
        self._channel = nf.Channel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, original: FiveTuple) -> Event | None:
        """Return the connection that has this 5-tuple in its original direction, or None."""
        family = socket.AF_INET6 if ":" in original.src else socket.AF_INET
        try:
            for body in self._channel.request(_GET, nf.ACK, family, 0, _tuple(original)):
                return _event("entry", body)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        return None

    def dump(self) -> list[Event]:
        """Return all connections; costs milliseconds however few, for the kernel walks the whole table."""
        bodies = self._channel.request(_GET, nf.DUMP, socket.AF_UNSPEC, 0, b"")
        return [event for body in bodies if (event := _event("entry", body)) is not None]

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()


def _event(kind: Literal["new", "update", "destroy", "entry"], body: bytes) -> Event | None:
    found = nf.attributes(body)
    if _ORIGINAL not in found or _REPLY not in found:
        return None
    return Event(
        time=_time(kind, found),
        kind=kind,
        original=_five_tuple(found[_ORIGINAL]),
        reply=_five_tuple(found[_REPLY]),
        status=nf.number(found.get(_STATUS)),
        mark=nf.number(found.get(_MARK)),
        id=nf.number(found.get(_ID)),
        sent=_counters(found.get(_COUNT_ORIGINAL)),
        received=_counters(found.get(_COUNT_REPLY)),
    )


def _time(kind: str, found: nf.Attributes) -> int:
    if _EVENT_TIME in found:
        return nf.number(found[_EVENT_TIME])
    times = nf.attributes(found.get(_TIMES, b""))
    return nf.number(times.get(2 if kind == "destroy" else 1)) or time.time_ns()


def _counters(raw: bytes | None) -> tuple[int, int]:
    if raw is None:
        return 0, 0
    found = nf.attributes(raw)
    return nf.number(found.get(1)), nf.number(found.get(2))


def _five_tuple(raw: bytes) -> FiveTuple:
    both = nf.attributes(raw)
    ip, proto = nf.attributes(both[1]), nf.attributes(both[2])
    protocol = proto[1][0]
    src, dst = (ip[1], ip[2]) if 1 in ip else (ip[3], ip[4])
    if protocol == ICMP:
        ports = nf.number(proto.get(4)), nf.number(proto.get(5)) << 8 | nf.number(proto.get(6))
    elif protocol == ICMPV6:
        ports = nf.number(proto.get(7)), nf.number(proto.get(8)) << 8 | nf.number(proto.get(9))
    else:
        ports = nf.number(proto.get(2)), nf.number(proto.get(3))
    family = socket.AF_INET if len(src) == 4 else socket.AF_INET6
    return FiveTuple(
        protocol, socket.inet_ntop(family, src), ports[0], socket.inet_ntop(family, dst), ports[1]
    )


def _tuple(flow: FiveTuple) -> bytes:
    family = socket.AF_INET6 if ":" in flow.src else socket.AF_INET
    first = 1 if family == socket.AF_INET else 3
    ends = [
        nf.attribute(first + place, socket.inet_pton(family, ip))
        for place, ip in enumerate((flow.src, flow.dst))
    ]
    proto = [nf.attribute(1, bytes([flow.protocol]))]
    if flow.protocol in (ICMP, ICMPV6):
        base = 4 if flow.protocol == ICMP else 7
        proto.append(nf.attribute(base, struct.pack(">H", flow.sport)))
        proto += [
            nf.attribute(base + 1, bytes([flow.dport >> 8])),
            nf.attribute(base + 2, bytes([flow.dport & 255])),
        ]
    else:
        proto += [
            nf.attribute(2, struct.pack(">H", flow.sport)),
            nf.attribute(3, struct.pack(">H", flow.dport)),
        ]
    return nf.nested(_ORIGINAL, nf.nested(1, *ends), nf.nested(2, *proto))
