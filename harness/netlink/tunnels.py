"""Requests for tunnels' devices, and for what is behind their other ends.

Source: linux/if_link.h, linux/if_tunnel.h, linux/neighbour.h.
"""

from __future__ import annotations

import struct

from harness.netlink import packing
from harness.netlink.records import AF_BRIDGE
from harness.netlink.requests import Message, make_link, neighbour_header

_NEWNEIGH = 28
_REQUEST, _REPLACE, _CREATE, _APPEND = 0x1, 0x100, 0x400, 0x800
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF, _NTF_MASTER = 0x02, 0x04


def vxlan(  # noqa: PLR0913 - what such a link is made of
    name: str,
    index: int,
    mac: str,
    *,
    vni: int,
    local: str,
    port: int = 4789,
    parent: int | None = None,
    learning: bool = False,
) -> Message:
    """Make a VXLAN device that sends from `local` to a UDP port; `fdb` says who is where unless it learns."""
    source = packing.packed(local)
    data = packing.u32(1, vni) + packing.attribute(4 if len(source) == 4 else 17, source)
    data += packing.attribute(7, bytes([learning])) + packing.attribute(15, struct.pack(">H", port))
    if parent is not None:
        data += packing.u32(3, parent)
    return make_link("vxlan", name, index, mac, data=data)


def ipip(name: str, index: int, *, local: str) -> Message:
    """Make an IP-in-IP device (RFC 2003) that sends from `local`; a packet's other end is its route's next hop.

    Such a device has no hardware address: its own is `local` (linux/if_tunnel.h).
    """
    return make_link("ipip", name, index, "", data=packing.attribute(2, packing.packed(local)))


def geneve(  # noqa: PLR0913 - what such a link is made of
    name: str, index: int, mac: str, *, vni: int, remote: str, port: int = 6081
) -> Message:
    """Make a Geneve device (RFC 8926) whose other end is `remote`, at a UDP port."""
    end = packing.packed(remote)
    data = packing.u32(1, vni) + packing.attribute(2 if len(end) == 4 else 7, end)
    data += packing.attribute(5, struct.pack(">H", port))
    return make_link("geneve", name, index, mac, data=data)


def fdb(index: int, mac: str, dst: str | None = None) -> Message:
    """Say where a MAC lies: behind the VXLAN end point `dst`, or without one behind this port of a bridge.

    The MAC 00:00:00:00:00:00 stands for all that are unknown; of it a VXLAN device keeps every `dst` given.
    """
    hardware = packing.mac(mac)
    if dst is None:
        body = neighbour_header(AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER) + packing.attribute(2, hardware)
        return Message(_NEWNEIGH, _REQUEST | _CREATE | _REPLACE, body, f"put {mac} behind interface {index}")
    body = neighbour_header(AF_BRIDGE, index, _NUD_NOARP | _NUD_PERMANENT, _NTF_SELF)
    body += packing.attribute(2, hardware) + packing.attribute(1, packing.packed(dst))
    flags = _REQUEST | _CREATE | (_REPLACE if any(hardware) else _APPEND)
    return Message(_NEWNEIGH, flags, body, f"put {mac} of interface {index} at {dst}")
