"""What two ends of a TCP connection sent each other, put together from the packets at one tap (RFC 9293)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from harness.errors import LostEvidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.capture import Packet
    from harness.programs.fivetuple import FiveTuple

_HALF, _WHOLE = 1 << 31, 1 << 32
_CONTENT_TYPES = {20: "change cipher spec", 21: "alert", 22: "handshake", 23: "application data"}
_APPLICATION_DATA = 23
_VERSIONS = (0x0301, 0x0302, 0x0303)
_LONGEST_RECORD = (1 << 14) + 256
_RECORD_HEADER = 5
_OPENERS = (21, 22)


def stream(packets: Iterable[Packet], flow: FiveTuple) -> tuple[bytes, bytes]:
    """Return what the client and what the server sent; `flow` is the client's direction.

    Packets of other flows are passed over. Retransmissions, overlaps, any order, frames made by segmentation
    offload and frames that loopback shows twice are all the same. Raises LostEvidence when a byte or the
    beginning is missing, or when two connections had this 5-tuple.
    """
    back = flow.inverse()
    chosen = sorted((packet for packet in packets if packet.flow in (flow, back)), key=lambda one: one.time)
    client = [packet for packet in chosen if packet.flow == flow]
    server = [packet for packet in chosen if packet.flow == back]
    return _put_together(client, server, f"{flow}"), _put_together(server, client, f"{back}")


def is_tls(data: bytes) -> Literal[True] | str:
    """Return True when one direction of a stream is TLS records from its first byte, else why it is not.

    There must be application data; the last record may be cut off. Source: RFC 8446, section 5.1.
    """
    if not data:
        return "nothing was sent"
    kinds: list[int] = []
    offset = 0
    while offset < len(data):
        wrong = _wrong_header(data[offset : offset + _RECORD_HEADER], first=not kinds)
        if wrong:
            return f"byte {offset} does not start a TLS record ({wrong}): {data[offset : offset + 16]!r}"
        kinds.append(data[offset])
        offset += _RECORD_HEADER + int.from_bytes(data[offset + 3 : offset + 5], "big")
    if _APPLICATION_DATA not in kinds:
        return f"no application data, only {', '.join(_CONTENT_TYPES[kind] for kind in sorted(set(kinds)))}"
    return True


def opens_tls(data: bytes) -> bool:
    """Say whether one direction of a stream begins with a TLS record, whatever became of it."""
    return bool(data) and not _wrong_header(data[:_RECORD_HEADER], first=True)


def _wrong_header(header: bytes, *, first: bool) -> str:
    """Say what is wrong with a record's header, as far as it was captured; the empty text for nothing."""
    kind = header[0]
    if kind not in _CONTENT_TYPES:
        return f"type {kind}"
    if first and kind not in _OPENERS:
        return f"{_CONTENT_TYPES[kind]} comes before any handshake"
    if len(header) < _RECORD_HEADER:
        return ""
    version, length = struct.unpack(">HH", header[1:])
    if version not in _VERSIONS:
        return f"version {version:#06x}"
    if length > _LONGEST_RECORD or (length == 0 and kind != _APPLICATION_DATA):
        return f"length {length}"
    return ""


def _put_together(sent: list[Packet], answered: list[Packet], name: str) -> bytes:
    first = _first_byte(sent, name)
    if first is None:
        return b""
    whole = bytearray()
    for offset, payload in sorted(_pieces(sent, first), key=lambda piece: piece[0]):
        if offset > len(whole):
            raise LostEvidence(f"{name}: bytes {len(whole)} to {offset - 1} were not recorded")
        whole += payload[len(whole) - offset :]
    end = _end(sent, answered, first)
    if len(whole) < end:
        raise LostEvidence(f"{name}: bytes {len(whole)} to {end - 1} were not recorded")
    return bytes(whole)


def _first_byte(sent: list[Packet], name: str) -> int | None:
    """Return the sequence number of the first byte; None for a side that sent nothing."""
    starts = {(packet.seq + 1) % _WHOLE for packet in sent if "S" in packet.flags}
    if len(starts) > 1:
        raise LostEvidence(f"{name}: {len(starts)} connections had this 5-tuple")
    if not starts and any(packet.payload for packet in sent):
        raise LostEvidence(f"{name}: the beginning of the connection was not recorded")
    return starts.pop() if starts else None


def _pieces(sent: list[Packet], first: int) -> Iterator[tuple[int, bytes]]:
    near = 0
    for packet in sent:
        if packet.payload and "S" not in packet.flags:
            near = _offset(packet.seq, first, near)
            yield near, packet.payload


def _end(sent: list[Packet], answered: list[Packet], first: int) -> int:
    """Return how many bytes there must have been, by what was sent, finished and acknowledged."""
    end, finish, near = 0, None, 0
    for packet in sent:
        if "S" in packet.flags or "R" in packet.flags:
            continue
        near = _offset(packet.seq, first, near)
        behind = near + len(packet.payload)
        if "F" in packet.flags:
            finish = behind
        if packet.payload:
            # of a frame that was cut off the rest counts as sent
            end = max(end, behind + packet.frame.length - len(packet.frame.data))
    near = 0
    for packet in answered:
        if "A" in packet.flags and "R" not in packet.flags:
            near = _offset(packet.ack, first, near)
            end = max(end, near)
    # a FIN is acknowledged like a byte and is none
    return end if finish is None else max(finish, end - 1 if end > finish else end)


def _offset(sequence: int, first: int, near: int) -> int:
    """Return a sequence number's distance from the first byte, which may pass 4 GB; `near` is a close one."""
    return near + (sequence - first - near + _HALF) % _WHOLE - _HALF
