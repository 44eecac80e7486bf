"""The fixed parts of IPv4, IPv6 and what they carry, read in place (RFC 791, RFC 8200, RFC 792, RFC 4443)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from harness.programs.fivetuple import ICMP, ICMPV6, TCP, UDP, FiveTuple

_V4 = struct.Struct(">BxHHHBBxx4s4s")
_V6 = struct.Struct(">IHBB16s16s")
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_ECHOES = {ICMP: (0, 8), ICMPV6: (128, 129)}


class IpPacket(NamedTuple):
    """Where the parts of a packet lie; `start` and `end` bound what the IP header carries.

    `ip_id` is 0 for IPv6 without fragments; `first` is False for fragments behind the first.
    """

    protocol: int
    src: str
    dst: str
    ttl: int
    ip_id: int
    start: int
    end: int
    first: bool


def parse(data: bytes, offset: int = 0) -> IpPacket | None:
    """Read the IP header at `offset`; None for what is not IP or was cut off within the header."""
    if len(data) < offset + 20:
        return None
    version = data[offset] >> 4
    if version == 4:
        return _parse_v4(data, offset)
    if version == 6 and len(data) >= offset + 40:
        return _parse_v6(data, offset)
    return None


def five_tuple(data: bytes, offset: int = 0) -> FiveTuple | None:
    """Return the 5-tuple of the IP packet at `offset`; None for what is not IP or was cut off."""
    ip = parse(data, offset)
    return None if ip is None else flow_of(data, ip)


def flow_of(data: bytes, ip: IpPacket) -> FiveTuple | None:
    """Return the 5-tuple of a packet whose IP header is known; None when its ports were cut off."""
    start = ip.start
    if not ip.first:
        return FiveTuple(ip.protocol, ip.src, 0, ip.dst, 0)
    if ip.protocol in (TCP, UDP):
        if len(data) < start + 4:
            return None
        sport, dport = struct.unpack_from(">HH", data, start)
        return FiveTuple(ip.protocol, ip.src, sport, ip.dst, dport)
    if ip.protocol in _ECHOES:
        if len(data) < start + 2:
            return None
        kind, code = data[start], data[start + 1]
        echo = kind in _ECHOES[ip.protocol] and len(data) >= start + 6
        number = int.from_bytes(data[start + 4 : start + 6], "big") if echo else 0
        return FiveTuple(ip.protocol, ip.src, number, ip.dst, kind << 8 | code)
    return FiveTuple(ip.protocol, ip.src, 0, ip.dst, 0)


def _parse_v4(data: bytes, offset: int) -> IpPacket:
    first, length, ip_id, fragment, ttl, protocol, src, dst = _V4.unpack_from(data, offset)
    # a length of 0 is that of an offloaded packet over 64 KB: all that was captured is its own
    end = min(offset + length, len(data)) if length else len(data)
    return IpPacket(
        protocol,
        socket.inet_ntop(socket.AF_INET, src),
        socket.inet_ntop(socket.AF_INET, dst),
        ttl,
        ip_id,
        offset + (first & 15) * 4,
        end,
        not fragment & 0x1FFF,
    )


def _parse_v6(data: bytes, offset: int) -> IpPacket | None:
    _, length, following, ttl, src, dst = _V6.unpack_from(data, offset)
    start = offset + 40
    end = min(start + length, len(data)) if length else len(data)
    ip_id, first = 0, True
    while following in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
        if end < start + 8:
            return None
        kind, following = following, data[start]
        if kind == _FRAGMENT:
            ip_id = int.from_bytes(data[start + 4 : start + 8], "big")
            first = not int.from_bytes(data[start + 2 : start + 4], "big") & 0xFFF8
            start += 8
            if not first:
                break
        else:
            start += 8 + data[start + 1] * 8
    return IpPacket(
        following,
        socket.inet_ntop(socket.AF_INET6, src),
        socket.inet_ntop(socket.AF_INET6, dst),
        ttl,
        ip_id,
        start,
        end,
        first,
    )
