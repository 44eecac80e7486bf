"""Recorded frames -> packets: dissected, filtered, reassembled; the only door to scapy.

Dissection here reads the few fixed fields that verdicts need, in microseconds a packet; scapy takes half a
millisecond and knows every field, so it is for the packets that an assertion is about.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.bpf import FilterError, check_filter, compiled
from harness.lookup import nearest
from harness.pcapng import TapInfo, write_pcapng
from harness.programs.fivetuple import ICMP, ICMPV6, TCP, UDP, FiveTuple
from harness.programs.ippacket import IpPacket, five_tuple, flow_of, parse
from harness.programs.tap import ETHERNET, LOOPBACK, Frame
from harness.stream import is_tls, opens_tls, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "FilterError",
    "Packet",
    "TapInfo",
    "check_filter",
    "check_name",
    "dissect",
    "fields",
    "has_layers",
    "is_tls",
    "matching",
    "opens_tls",
    "stream",
    "value_of",
    "write_pcapng",
]

_IPV4, _IPV6, _VLAN, _SERVICE_VLAN = 0x0800, 0x86DD, 0x8100, 0x88A8
_TCP = struct.Struct(">HHIIBB")
_FLAGS = "FSRPAUEC"
_FLAG_WORDS = tuple("".join(_FLAGS[bit] for bit in range(8) if value >> bit & 1) for value in range(256))
_ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
_TIMESTAMP = b"\x01\x01\x08\x0a"
_TUNNELS = ("layers.vxlan", "contrib.geneve")
_LAYERS = ("layers.l2", "layers.inet", "layers.inet6", "layers.dns", *_TUNNELS)
_VXLAN, _GENEVE, _IP_IN_IP = 4789, 6081, 4
_NO_HEADER = 768
"""ARPHRD_TUNNEL (linux/if_arp.h): what is before the IP header, nothing."""
_MOST_TUNNELS = 4
_ETHERNET_IN_GENEVE = b"\x65\x58"


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet at a tap.

    `time` is in ns since the epoch. `flags`, `seq`, `ack` and `tsval` (RFC 7323; None without the option) are
    of TCP, the flags as scapy writes them (`S`, `SA`, `FA`, `R`). `payload` is what TCP or UDP carries, as
    far as it was captured. `icmp` is (type, code, 5-tuple of the quoted packet, None when nothing is quoted).
    `inner` is the packet that a tunnel's carries (VXLAN, RFC 7348; Geneve, RFC 8926: in Ethernet; IP-in-IP, RFC 2003).
    """

    time: int
    tap: str
    outgoing: bool
    flow: FiveTuple
    flags: str
    seq: int
    ack: int
    ttl: int
    ip_id: int
    payload: bytes
    tsval: int | None
    icmp: tuple[int, int, FiveTuple | None] | None
    frame: Frame
    inner: Packet | None = None

    @property
    def innermost(self) -> Packet:
        """The packet that no other is wrapped in: of one without a tunnel, itself."""
        return self if self.inner is None else self.inner.innermost


def dissect(frame: Frame, tap: str, tunnels: int = _MOST_TUNNELS) -> Packet | None:
    """Return the packet in a frame; None for what is not IP or was cut off before its ports.

    So many tunnels within each other are looked into; a frame can be made to hold a thousand.
    """
    data = frame.data
    offset = _ip_offset(frame)
    ip = None if offset is None else parse(data, offset)
    flow = None if ip is None else flow_of(data, ip)
    if ip is None or flow is None:
        return None
    flags, seq, ack, payload, tsval, icmp, inner = "", 0, 0, b"", None, None, None
    start, end = ip.start, ip.end
    if not ip.first:
        pass
    elif flow.protocol == TCP and end >= start + 20:
        _, _, seq, ack, length, bits = _TCP.unpack_from(data, start)
        flags = _FLAG_WORDS[bits]
        behind = start + (length >> 4) * 4
        payload = data[behind:end]
        tsval = _tsval(data[start + 20 : behind])
    elif flow.protocol == UDP:
        payload = data[start + 8 : end]
        wrapped = _wrapped(flow.dport, payload)
        if wrapped and tunnels:
            inside = frame._replace(data=wrapped, length=len(wrapped), hardware=ETHERNET, vlan=None)
            inner = dissect(inside, tap, tunnels - 1)
    elif flow.protocol == _IP_IN_IP and tunnels:
        inside = frame._replace(data=data[start:end], length=end - start, hardware=_NO_HEADER, vlan=None)
        inner = dissect(inside, tap, tunnels - 1)
    elif flow.protocol in _ERRORS:
        icmp = _icmp(data, ip)
    return Packet(
        frame.time,
        tap,
        frame.outgoing,
        flow,
        flags,
        seq,
        ack,
        ip.ttl,
        ip.ip_id,
        payload,
        tsval,
        icmp,
        frame,
        inner,
    )


def matching(packets: Iterable[Packet], bpf: str) -> list[Packet]:
    """Return the packets that a filter in the language of pcap-filter(7) lets through.

    Raises FilterError with libpcap's sentence, and MissingCapability where libpcap is not installed.
    """
    found: list[Packet] = []
    for packet in packets:
        frame = packet.frame
        accepts = compiled(bpf, ethernet=frame.hardware in (ETHERNET, LOOPBACK))
        if accepts(frame.data, frame.length):
            found.append(packet)
    return found


def fields(frame: Frame) -> Any:
    """Return a frame as scapy's packet, for assertions about any field."""
    l2, inet, inet6 = _scapy("layers.l2"), _scapy("layers.inet"), _scapy("layers.inet6")
    for tunnel in _TUNNELS:  # what these say of their ports is known from then on
        _scapy(tunnel)
    if frame.hardware in (ETHERNET, LOOPBACK):
        return l2.Ether(frame.data)
    kind = inet6.IPv6 if frame.data[:1] and frame.data[0] >> 4 == 6 else inet.IP
    return kind(frame.data)


def value_of(layered: Any, name: str) -> Any:
    """Return a field of a packet of scapy's, None when it has no such layer; `IP.src#2`: of its second IP layer."""
    path, _, number = name.partition("#")
    layer, _, field = path.partition(".")
    found = layered.getlayer(layer, nb=int(number or 1))
    return None if found is None else found.getfieldval(field)


def has_layers(layered: Any, layers: Sequence[str]) -> bool:
    """Say whether a packet of scapy's has these layers in this order from outside; others may lie between."""
    own = iter([found.__name__ for found in layered.layers()])
    return all(layer in own for layer in layers)


def check_name(name: str) -> None:
    """See that `Layer.field` or `Layer` is one that scapy knows, as `IP.ttl` or `IP.ttl#2`.

    Raises ValueError with the nearest names.
    """
    layer, dot, field = name.partition("#")[0].partition(".")
    if not layer or bool(dot) != bool(field):
        raise ValueError(f"{name!r} is not of the form Layer.field, as IP.ttl")
    known = {found.__name__: found for part in _LAYERS for found in _packet_classes(_scapy(part))}
    if layer not in known:
        import scapy.layers.all  # noqa: PLC0415 - a second of processor time, and only for an unusual layer

        known |= {found.__name__: found for found in scapy.config.conf.layers}
    if layer not in known:
        raise ValueError(f"scapy knows no layer {layer!r}; {_few(layer, list(known))}")
    if not field:
        return
    own = [description.name for description in known[layer].fields_desc]
    if field not in own:
        raise ValueError(f"scapy's layer {layer} has no field {field!r}; {nearest(field, own)}")


def _few(word: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - for a message only

    spelled = {name.lower(): name for name in known}  # what is wrong in a layer's name is often its case
    close = difflib.get_close_matches(word.lower(), spelled, n=3, cutoff=0)
    return f"nearest: {', '.join(spelled[name] for name in close)}"


def _ip_offset(frame: Frame) -> int | None:
    if frame.hardware not in (ETHERNET, LOOPBACK):
        return 0
    data = frame.data
    offset = 12
    kind = int.from_bytes(data[12:14], "big")
    while kind in (_VLAN, _SERVICE_VLAN):
        offset += 4
        kind = int.from_bytes(data[offset : offset + 2], "big")
    return offset + 2 if kind in (_IPV4, _IPV6) else None


def _wrapped(port: int, data: bytes) -> bytes:
    """Return the Ethernet frame that a tunnel's datagram carries; empty for other datagrams."""
    if port == _VXLAN and len(data) > 8 and data[0] & 0x08:
        return data[8:]
    if port == _GENEVE and len(data) > 8 and data[0] >> 6 == 0 and data[2:4] == _ETHERNET_IN_GENEVE:
        return data[8 + (data[0] & 0x3F) * 4 :]
    return b""


def _tsval(options: bytes) -> int | None:
    if options[:4] == _TIMESTAMP:  # how Linux lays it out in every segment but the first
        return int.from_bytes(options[4:8], "big")
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        length = options[1] if len(options) > 1 else 0
        if length < 2:
            return None
        if options[0] == 8 and length == 10:
            return int.from_bytes(options[2:6], "big")
        options = options[length:]
    return None


def _icmp(data: bytes, ip: IpPacket) -> tuple[int, int, FiveTuple | None]:
    kind, code = data[ip.start], data[ip.start + 1]
    quoted = five_tuple(data[: ip.end], ip.start + 8) if kind in _ERRORS[ip.protocol] else None
    return kind, code, quoted


@cache
def _scapy(part: str) -> Any:
    import importlib  # noqa: PLC0415 - with scapy itself, whose import takes a good part of a second

    return importlib.import_module(f"scapy.{part}")


def _packet_classes(module: Any) -> list[Any]:
    from scapy.packet import Packet as ScapyPacket  # noqa: PLC0415 - see _scapy

    return [
        item for item in vars(module).values() if isinstance(item, type) and issubclass(item, ScapyPacket)
    ]
