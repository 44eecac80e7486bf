"""One capture file for all taps of a run, as Wireshark and tshark read it (draft-ietf-opsawg-pcapng).

scapy's writer knows neither names nor comments of interfaces.
"""

from __future__ import annotations

import os
import platform
import struct
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness import __version__
from harness.programs.fivetuple import TCP, UDP
from harness.programs.ippacket import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.programs.tap import Frame

ETHERNET, RAW_IP = 1, 101
"""Link types (LINKTYPE_ETHERNET, LINKTYPE_RAW) of interfaces with an Ethernet header, and without."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_NANOSECONDS = 9
_VXLAN = (4789).to_bytes(2, "big")
_MOST_TUNNELS = 4
"""Within each other; a frame can be made to hold a thousand."""
_INBOUND, _OUTBOUND = 1, 2
_END = b"\0\0\0\0"


@dataclass(frozen=True, slots=True)
class TapInfo:
    """An interface of the file; `comment` becomes its description."""

    name: str
    comment: str = ""
    link: int = ETHERNET


def write_pcapng(
    target: str | os.PathLike[str] | IO[bytes],
    taps: Sequence[TapInfo],
    records: Iterable[tuple[int, Frame, str | None]],
    *,
    in_order: bool = False,
) -> None:
    """Write a file of frames in order of time; a record is the tap's number from 0, the frame and a comment.

    Checksums that were left to an interface are filled in. Records that are `in_order` are written as
    they come.
    """
    ordered = records if in_order else sorted(records, key=lambda record: record[1].time)
    with Path(target).open("wb") if isinstance(target, str | os.PathLike) else nullcontext(target) as file:
        file.write(_section())
        file.writelines(_interface(tap) for tap in taps)
        file.writelines(
            _packet(number, frame, taps[number].link, comment) for number, frame, comment in ordered
        )


def mended(data: bytes, link: int = ETHERNET, tunnels: int = _MOST_TUNNELS) -> bytes:
    """Return a frame with its TCP or UDP checksum computed, and that of what VXLAN wraps in it.

    It is as it was when it has none or was cut off.
    """
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
    length = ip.end - ip.start
    before, behind = data[: ip.start + place], data[ip.start + place + 2 :]
    covered = data[ip.start : ip.start + place] + b"\0\0" + data[ip.start + place + 2 : ip.end]
    value = _checksum(addresses + struct.pack(">II", length, ip.protocol) + covered)
    if ip.protocol == UDP and value == 0:
        value = 0xFFFF  # 0 says that there is none (RFC 768)
    return before + value.to_bytes(2, "big") + behind


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071): a sum modulo 65535, which long division does at C's speed."""
    if len(data) % 2:
        data += b"\0"
    return 0xFFFF - (int.from_bytes(data, "big") % 0xFFFF or 0xFFFF) if any(data) else 0xFFFF


def _section() -> bytes:
    system = platform.uname()
    options = (
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


def _packet(tap: int, frame: Frame, link: int, comment: str | None) -> bytes:
    data = frame.data if frame.checksum_ready else mended(frame.data, link)
    high, low = divmod(frame.time, 1 << 32)
    head = struct.pack("=IIIII", tap, high, low, len(data), frame.length)
    options = _option(1, comment.encode()) if comment else b""
    options += _option(2, struct.pack("=I", _OUTBOUND if frame.outgoing else _INBOUND))
    return _block(_PACKET, head + data + b"\0" * (-len(data) % 4) + options + _END)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + length + body + length
