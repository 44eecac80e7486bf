"""Entries that nftables rules log to a group, `log group N prefix ...` (linux/netfilter/nfnetlink_log.h).

Unlike plain `log`, which goes to the host's kernel log, a group belongs to its network namespace and needs no
right outside of it. A rule names its group, so no protocol family needs to be bound to this listener.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from harness.programs import nfnetlink as nf
from harness.programs.ippacket import five_tuple

if TYPE_CHECKING:
    from harness.programs.fivetuple import FiveTuple

HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
"""The word of nftables for a hook's number."""

_SUBSYSTEM = 4 << 8
_PACKET, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1
_BIND, _COPY_PACKET, _NUMBER_EACH = 1, 2, 1
_COMMAND, _MODE, _TIMEOUT, _THRESHOLD, _FLAGS = 1, 2, 4, 5, 6
_HEADER, _MARK, _TIME, _IN, _OUT, _PAYLOAD, _PREFIX, _SEQUENCE = 1, 2, 3, 4, 5, 9, 10, 12
_BUFFER = 8 << 20
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One packet that met a rule.

    `time` is in ns since the epoch: when the packet came in, to the microsecond, where the kernel tells (not
    of packets of its own), otherwise when the entry was read here. Interfaces by index, 0 for none. `packet`
    starts with the IP header and has at most the listener's `copy_range` bytes.
    """

    time: int
    prefix: str
    in_ifindex: int
    out_ifindex: int
    mark: int
    hook: str
    packet: bytes
    flow: FiveTuple | None


class Listener:
    """A reader of one group in the network namespace that the calling thread is in now, and stays in it.

    `lost` counts overflows of the socket and, by the numbers of the entries, each entry that did not arrive.
    Raises OSError, EPERM when the group has a reader already.
    """

    def __init__(self, group: int, copy_range: int = 256) -> None:
        self._channel = nf.Channel(buffer=_BUFFER)
        self._expected = 0
        self._missing = 0
        try:
            self._configure(group, nf.attribute(_COMMAND, bytes([_BIND])))
            self._configure(
                group,
                nf.attribute(_MODE, struct.pack(">IBB", copy_range, _COPY_PACKET, 0)),
                nf.attribute(
                    _THRESHOLD, struct.pack(">I", 1)
                ),  # the kernel would gather 100, or wait a second
                nf.attribute(_TIMEOUT, struct.pack(">I", 1)),
                nf.attribute(_FLAGS, struct.pack(">H", _NUMBER_EACH)),
            )
        except BaseException:
            self._channel.close()
            raise

    @property
    def lost(self) -> int:
        """How many losses were noticed."""
        return self._channel.lost + self._missing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, readable when an entry came."""
        return self._channel.fileno()

    def read(self) -> list[Entry]:
        """Return the entries that came, some thousands at most, without waiting."""
        return [
            self._entry(nf.attributes(body))
            for kind, _, body in self._channel.messages(_AT_ONCE)
            if kind == _PACKET
        ]

    def close(self) -> None:
        """Give the group up."""
        self._channel.close()

    def _configure(self, group: int, *what: bytes) -> None:
        for _ in self._channel.request(_CONFIG, nf.ACK, 0, group, b"".join(what)):
            pass

    def _entry(self, found: nf.Attributes) -> Entry:
        if _SEQUENCE in found:
            sequence = nf.number(found[_SEQUENCE])
            self._missing += (sequence - self._expected) & 0xFFFFFFFF
            self._expected = sequence + 1 & 0xFFFFFFFF
        stamp = time.time_ns()
        if _TIME in found:
            seconds, microseconds = struct.unpack(">QQ", found[_TIME])
            stamp = seconds * 1_000_000_000 + microseconds * 1000
        hook = found[_HEADER][2] if _HEADER in found else 0
        packet = found.get(_PAYLOAD, b"")
        return Entry(
            time=stamp,
            prefix=found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace"),
            in_ifindex=nf.number(found.get(_IN)),
            out_ifindex=nf.number(found.get(_OUT)),
            mark=nf.number(found.get(_MARK)),
            hook=HOOKS[hook] if hook < len(HOOKS) else str(hook),
            packet=packet,
            flow=five_tuple(packet),
        )
