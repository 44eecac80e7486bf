"""One capture file for all taps of a run, as Wireshark and tshark read it (draft-ietf-opsawg-pcapng).

scapy's writer knows neither names nor comments of interfaces.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from harness import __version__
from harness.programs.fivetuple import TCP, UDP
from harness.programs.ippacket import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Address

    from harness.programs.tap import Frame

ETHERNET, RAW_IP = 1, 101
"""Link types (LINKTYPE_ETHERNET, LINKTYPE_RAW) of interfaces with an Ethernet header, and without."""

_SECTION, _INTERFACE, _NAMES, _PACKET, _SECRETS = 0x0A0D0D0A, 1, 4, 6, 10
_KEY_LOG = 0x544C534B
"""The type of secrets that is TLS's, in the key log format of NSS."""
_IPV4_NAME = 1
_NANOSECONDS = 9
_IPV4, _TCP = b"\x08\x00\x45", bytes([TCP])
_VXLAN = (4789).to_bytes(2, "big")
_MOST_TUNNELS = 4
"""Within each other; a frame can be made to hold a thousand."""
_INBOUND, _OUTBOUND = 1, 2
_END = b"\0\0\0\0"
_HEAD = struct.Struct("=IIIIIII")
"""Of a packet's block: type, length, interface, time in two halves, length as captured and on the wire."""
_PLAIN = tuple(struct.pack("=HHIHH", 2, 4, direction, 0, 0) for direction in (_INBOUND, _OUTBOUND))
"""The options of a packet without a comment: its direction."""


@dataclass(frozen=True, slots=True)
class TapInfo:
    """An interface of the file; `comment` becomes its description."""

    name: str
    comment: str = ""
    link: int = ETHERNET


def write_pcapng(  # noqa: PLR0913 - the parts of a file
    target: str | os.PathLike[str] | IO[bytes],
    taps: Sequence[TapInfo],
    records: Iterable[tuple[int, Frame, str | None]],
    *,
    in_order: bool = False,
    names: Mapping[IPv4Address, Sequence[str]] = MappingProxyType({}),
    secrets: bytes = b"",
    comment: str = "",
) -> None:
    """Write a file of frames in order of time; a record is the tap's number from 0, the frame and a comment.

    Checksums that were left to an interface are filled in. Records that are `in_order` are written as
    they come. `names` are those of addresses, of each the one to be shown first; `secrets` those of TLS
    connections in the key log format of NSS (draft-ietf-tls-keylogfile). Both stand before the first packet,
    for readers that read once. `comment` is about the file.
    """
    ordered = records if in_order else sorted(records, key=lambda record: record[1].time)
    with Path(target).open("wb") if isinstance(target, str | os.PathLike) else nullcontext(target) as file:
        file.write(_section(comment))
        file.writelines(_interface(tap) for tap in taps)
        if names:
            file.write(_name_block(names))
        if secrets:
            file.write(_secrets_block(secrets))
        file.writelines(
            _packet(number, frame, taps[number].link, comment) for number, frame, comment in ordered
        )


def without_secrets(data: bytes) -> bytes:
    """Return a file of this machine's byte order without what decrypts it; the rest is as it was."""
    kept, offset = [], 0
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("=II", data, offset)
        if kind != _SECRETS:
            kept.append(data[offset : offset + length])
        offset += length
    return b"".join(kept)


def mended(data: bytes, link: int = ETHERNET, tunnels: int = _MOST_TUNNELS) -> bytes:
    """Return a frame with its TCP or UDP checksum computed, and that of what VXLAN wraps in it.

    It is as it was when it has none or was cut off.
    """
    if (
        link == ETHERNET
        and data[12:15] == _IPV4
        and data[23:24] == _TCP
        and not data[20] & 0x3F
        and not data[21]
    ):
        # nearly every frame: IPv4 without options or fragments, TCP, whole
        end = 14 + (data[16] << 8 | data[17])
        if 54 <= end <= len(data):
            return data[:50] + _checksum(data[26:34], TCP, data[34:end], 16) + data[52:]
    return _mended(data, link, tunnels)


def _mended(data: bytes, link: int, tunnels: int) -> bytes:
    offset = 0
    if link == ETHERNET:
        offset = 14
        while data[offset - 2 : offset] in (b"\x81\x00", b"\x88\xa8"):
            offset += 4
    ip = parse(data, offset)
    if ip is not None and tunnels and ip.protocol == UDP and data[ip.start + 2 : ip.start + 4] == _VXLAN:
        inner = ip.start + 16  # behind the headers of UDP and VXLAN (RFC 7348, section 5)
        if inner < ip.end:
            data = data[:inner] + mended(data[inner : ip.end], tunnels=tunnels - 1) + data[ip.end :]
    place = {TCP: 16, UDP: 6}.get(ip.protocol) if ip is not None else None
    if ip is None or place is None or not ip.first or ip.start + place + 2 > ip.end:
        return data
    declared = int.from_bytes(data[offset + 2 : offset + 4], "big") if ":" not in ip.src else 0
    if declared and offset + declared > len(data):
        return data
    addresses = data[offset + 12 : offset + 20] if ":" not in ip.src else data[offset + 8 : offset + 40]
    value = _checksum(addresses, ip.protocol, data[ip.start : ip.end], place)
    if ip.protocol == UDP and value == b"\0\0":
        value = b"\xff\xff"  # 0 says that there is none (RFC 768)
    return data[: ip.start + place] + value + data[ip.start + place + 2 :]


def _checksum(addresses: bytes, protocol: int, segment: bytes, place: int) -> bytes:
    """Return the checksum that belongs at `place` in a segment (RFC 1071, RFC 9293 section 3.1).

    It is a sum modulo 65535, which long division does at C's speed; what stands there now is taken off again.
    """
    length = len(segment)
    total = int.from_bytes(segment, "big") << (length % 2 * 8)
    total += int.from_bytes(addresses, "big") + protocol + length
    total -= segment[place] << 8 | segment[place + 1]
    return (0xFFFF - (total % 0xFFFF or 0xFFFF)).to_bytes(2, "big")


def _section(comment: str) -> bytes:
    system = platform.uname()
    options = _option(1, comment.encode()) if comment else b""
    options += (
        _option(2, system.machine.encode())
        + _option(3, f"{system.system} {system.release}".encode())
        + _option(4, f"Egress Lab {__version__}".encode())
    )
    return _block(_SECTION, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1) + options + _END)


def _interface(tap: TapInfo) -> bytes:
    options = _option(2, tap.name.encode())
    if tap.comment:
        options += _option(3, tap.comment.encode())
    options += _option(9, bytes([_NANOSECONDS]))
    return _block(_INTERFACE, struct.pack("=HHI", tap.link, 0, 0) + options + _END)


def _name_block(names: Mapping[IPv4Address, Sequence[str]]) -> bytes:
    records = b""
    for address, known in names.items():  # of several names Wireshark shows the last
        value = address.packed + b"".join(name.encode() + b"\0" for name in reversed(known))
        records += _option(_IPV4_NAME, value)
    return _block(_NAMES, records + _END)


def _secrets_block(secrets: bytes) -> bytes:
    padding = b"\0" * (-len(secrets) % 4)
    return _block(_SECRETS, struct.pack("=II", _KEY_LOG, len(secrets)) + secrets + padding)


def _packet(tap: int, frame: Frame, link: int, comment: str | None) -> bytes:
    data = frame.data if frame.checksum_ready else mended(frame.data, link)
    options = _PLAIN[frame.outgoing]
    if comment:
        options = _option(1, comment.encode()) + options
    size = len(data)
    padding = -size % 4
    length = _HEAD.size + size + padding + len(options) + 4
    head = _HEAD.pack(_PACKET, length, tap, frame.time >> 32, frame.time & 0xFFFFFFFF, size, frame.length)
    return b"".join((head, data, _END[:padding], options, length.to_bytes(4, sys.byteorder)))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + length + body + length
