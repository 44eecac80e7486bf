"""What requests of several kinds are made of.

Source: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.netlink import packing

LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, mask of flags."""

_NEWLINK = 16
_MAKE = 0x1 | 0x400 | 0x200  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_EXCL


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type and flags (netlink(7)), its body, and what it asks for in words."""

    kind: int
    flags: int
    body: bytes
    description: str


def make_link(  # noqa: PLR0913 - what every kind of link has
    kind: str, name: str, index: int, mac: str, *, data: bytes = b"", own: bytes = b""
) -> Message:
    """Make a link of a kind (ip-link(8)); `data` are the kind's own attributes, `own` more of every link's."""
    info = packing.string(1, kind) + (packing.attribute(2, data) if data else b"")
    body = LINK.pack(0, 0, index, 0, 0) + packing.string(3, name)
    body += (packing.attribute(1, packing.mac(mac)) if mac else b"") + own + packing.attribute(18, info)
    return Message(_NEWLINK, _MAKE, body, f"make {kind} {name} ({index})")


def neighbour_header(family: int, index: int, state: int, flags: int) -> bytes:
    """Return a struct ndmsg (linux/neighbour.h)."""
    return struct.pack("=BxxxiHBB", family, index, state, flags, 0)
