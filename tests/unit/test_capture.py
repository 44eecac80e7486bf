"""Dissection, filters, reassembly and the capture file; scapy and tshark are the judges."""

from __future__ import annotations

import io
import struct
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wireshark import tshark

from harness import capture
from harness.capture import Packet, TapInfo
from harness.errors import LostEvidence
from harness.pcapng import RAW_IP, mended
from harness.programs.fivetuple import ICMP, ICMPV6, TCP, UDP, FiveTuple
from harness.programs.tap import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = FiveTuple(TCP, "10.0.0.1", 40000, "10.0.0.2", 443)
SERVER = CLIENT.inverse()
ISN = {CLIENT: 2**32 - 5, SERVER: 1000}
"""The client's numbers wrap round after a few bytes."""

HELLO = bytes.fromhex("160301000501000001aa")
APPLICATION = bytes.fromhex("1703030003abcdef")


@pytest.fixture(scope="module")
def scapy() -> Any:
    """Return scapy's layers, by which frames are built independently of the code under test."""
    import scapy.layers.all  # noqa: PLC0415 - a second of processor time, only where it is needed

    return scapy.layers.all


def ethernet(scapy: Any) -> Any:
    """Return an Ethernet header; without addresses scapy would ask the network of this machine for them."""
    return scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def frame(data: bytes, time: int = 1, *, outgoing: bool = True, length: int | None = None) -> Frame:
    """Return a frame of interface 2."""
    return Frame(time, 2, outgoing, len(data) if length is None else length, data)


def packet(raw: Frame) -> Packet:
    """Dissect a frame that holds a packet."""
    found = capture.dissect(raw, "tap")
    assert found is not None
    return found


def packet_of(flow: FiveTuple, flags: str, numbers: tuple[int, int], payload: bytes, raw: Frame) -> Packet:
    """Return a TCP packet of these parts; `numbers` are its own and the acknowledged one."""
    return Packet(
        time=raw.time,
        tap="tap",
        outgoing=raw.outgoing,
        flow=flow,
        flags=flags,
        seq=numbers[0],
        ack=numbers[1],
        ttl=64,
        ip_id=0,
        payload=payload,
        tsval=None,
        icmp=None,
        frame=raw,
    )


def segment(  # noqa: PLR0913 - what tells one segment from another
    flow: FiveTuple, time: int, flags: str, offset: int, payload: bytes = b"", ack: int = 0
) -> Packet:
    """Return a TCP packet; `offset` and `ack` count bytes behind the SYN, which is at -1."""
    seq = (ISN[flow] + 1 + offset) % 2**32
    acknowledged = (ISN[flow.inverse()] + 1 + ack) % 2**32
    raw = frame(b"\0" * 54 + payload, time)
    return packet_of(flow, flags, (seq, acknowledged), payload, raw)


def opening() -> list[Packet]:
    """Return the three packets that open a connection, at times 1 to 3."""
    return [segment(CLIENT, 1, "S", -1), segment(SERVER, 2, "SA", -1), segment(CLIENT, 3, "A", 0)]


# dissection


def test_tcp_is_read_as_scapy_wrote_it(scapy: Any) -> None:
    """Addresses, ports, flags, numbers, TTL, identification, time stamp and payload are those of the frame."""
    built = (
        ethernet(scapy)
        / scapy.IP(src="10.0.0.1", dst="10.0.0.2", ttl=61, id=777)
        / scapy.TCP(
            sport=1234, dport=80, seq=5, ack=6, flags="SA", options=[("MSS", 1460), ("Timestamp", (99, 1))]
        )
        / b"payload"
    )
    found = packet(frame(bytes(built), 42))
    assert found.flow == FiveTuple(TCP, "10.0.0.1", 1234, "10.0.0.2", 80)
    assert (found.flags, found.seq, found.ack, found.tsval, found.payload) == ("SA", 5, 6, 99, b"payload")
    assert (found.ttl, found.ip_id, found.time, found.tap, found.icmp) == (61, 777, 42, "tap", None)


@pytest.mark.parametrize("flags", ["S", "SA", "A", "PA", "FA", "FPA", "R", "RA", "SEC"])
def test_flags_are_written_as_scapy_writes_them(scapy: Any, flags: str) -> None:
    """An assertion may use the same letters here and in scapy's fields."""
    raw = frame(bytes(ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.TCP(flags=flags)))
    assert packet(raw).flags == str(capture.fields(raw)[scapy.TCP].flags)


def test_padding_is_no_payload(scapy: Any) -> None:
    """A short frame is padded on the wire; the padding does not count as sent."""
    built = (
        bytes(ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(sport=1, dport=2) / b"x")
        + b"\0" * 17
    )
    assert packet(frame(built)).payload == b"x"


def test_udp_over_ipv6_with_extension_headers(scapy: Any) -> None:
    """Headers between IPv6 and what it carries are stepped over."""
    built = (
        ethernet(scapy)
        / scapy.IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9)
        / scapy.IPv6ExtHdrHopByHop()
        / scapy.IPv6ExtHdrDestOpt()
        / scapy.UDP(sport=53, dport=54)
        / b"dns"
    )
    found = packet(frame(bytes(built)))
    assert found.flow == FiveTuple(UDP, "2001:db8::1", 53, "2001:db8::2", 54)
    assert (found.ttl, found.payload) == (9, b"dns")


def test_tagged_frames_are_read(scapy: Any) -> None:
    """A VLAN tag, also a stacked one, is stepped over."""
    built = (
        ethernet(scapy)
        / scapy.Dot1Q(vlan=5)
        / scapy.Dot1Q(vlan=6)
        / scapy.IP(src="10.0.0.1", dst="10.0.0.9")
        / scapy.UDP(dport=7)
    )
    assert packet(frame(bytes(built))).flow.dport == 7


def test_icmp_error_names_the_flow_that_it_is_about(scapy: Any) -> None:
    """A rejection by ICMP carries type, code and the quoted packet's 5-tuple."""
    about = scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.TCP(sport=40000, dport=443)
    built = (
        ethernet(scapy)
        / scapy.IP(src="10.0.0.254", dst="10.0.0.1")
        / scapy.ICMP(type=3, code=13)
        / bytes(about)[:28]
    )
    found = packet(frame(bytes(built)))
    assert found.icmp == (3, 13, CLIENT)
    assert found.flow == FiveTuple(ICMP, "10.0.0.254", 0, "10.0.0.1", 3 << 8 | 13)


def test_icmpv6_error_and_echo(scapy: Any) -> None:
    """The same holds for IPv6, and an echo is named by its identifier and quotes nothing."""
    about = scapy.IPv6(src="2001:db8::1", dst="2001:db8::2") / scapy.UDP(sport=5, dport=6)
    error = (
        ethernet(scapy)
        / scapy.IPv6(src="2001:db8::9", dst="2001:db8::1")
        / scapy.ICMPv6DestUnreach(code=1)
        / about
    )
    assert packet(frame(bytes(error))).icmp == (1, 1, FiveTuple(UDP, "2001:db8::1", 5, "2001:db8::2", 6))
    echo = packet(
        frame(bytes(ethernet(scapy) / scapy.IPv6(src="::1", dst="::1") / scapy.ICMPv6EchoRequest(id=77)))
    )
    assert (echo.icmp, echo.flow) == ((128, 0, None), FiveTuple(ICMPV6, "::1", 77, "::1", 128 << 8))


def test_fragments_behind_the_first_have_no_ports(scapy: Any) -> None:
    """What looks like ports in a later fragment is data, and is not taken for ports."""
    built = (
        ethernet(scapy)
        / scapy.IP(src="10.0.0.1", dst="10.0.0.2", frag=100, proto=UDP)
        / b"\x04\xd2\x04\xd2data"
    )
    assert packet(frame(bytes(built))).flow == FiveTuple(UDP, "10.0.0.1", 0, "10.0.0.2", 0)


def test_other_than_ip_is_none(scapy: Any) -> None:
    """ARP, a nonce and scraps are no packets."""
    assert (
        capture.dissect(
            frame(
                bytes(
                    ethernet(scapy) / scapy.ARP(hwsrc="02:00:00:00:00:01", psrc="10.0.0.1", pdst="10.0.0.2")
                )
            ),
            "tap",
        )
        is None
    )
    assert capture.dissect(frame(b""), "tap") is None
    assert (
        capture.dissect(
            frame(bytes(ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.TCP())[:36]), "tap"
        )
        is None
    )


@given(st.binary(max_size=120), st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0"]))
def test_dissection_survives_anything(content: bytes, kind: bytes) -> None:
    """Whatever bytes stand behind the Ethernet header, the answer is a packet or None, never an error."""
    capture.dissect(frame(b"\0" * 12 + kind + content), "tap")
    for start in (b"\x45", b"\x60"):
        capture.dissect(frame(b"\0" * 12 + kind + start + content), "tap")
    mended(b"\0" * 12 + kind + content)


def test_frames_without_ethernet_header(scapy: Any) -> None:
    """A tunnel's frames start with the IP header, for dissection, filters and scapy."""
    data = bytes(scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(dport=7))
    raw = frame(data)._replace(hardware=768)
    assert packet(raw).flow.dport == 7
    assert len(capture.matching([packet(raw)], "udp port 7")) == 1
    assert capture.fields(raw)[scapy.UDP].dport == 7


# filters and names


def test_filters_choose(scapy: Any) -> None:
    """A filter lets through what tcpdump would show."""
    packets = [
        packet(
            frame(
                bytes(
                    ethernet(scapy)
                    / scapy.IP(src="10.0.0.1", dst="10.0.0.2")
                    / scapy.TCP(dport=port, flags=flags)
                )
            )
        )
        for port, flags in ((3128, "S"), (3128, "PA"), (80, "S"))
    ]
    assert capture.matching(packets, "tcp port 3128") == packets[:2]
    assert capture.matching(packets, "tcp[tcpflags] & tcp-syn != 0") == [packets[0], packets[2]]
    assert capture.matching(packets, "greater 2000") == []


def test_filter_that_is_none_is_refused() -> None:
    """What libpcap cannot compile is refused with its sentence and the filter."""
    capture.check_filter("tcp port 3128 and host 10.0.0.1")
    with pytest.raises(capture.FilterError, match=r"'tcp prot 3128' is not a packet filter: .*syntax error"):
        capture.check_filter("tcp prot 3128")


def test_length_on_the_wire_counts_for_filters(scapy: Any) -> None:
    """A frame that was cut off is judged by its length on the wire."""
    data = bytes(ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP())
    assert len(capture.matching([packet(frame(data, length=5000))], "greater 4000")) == 1


def test_names_of_fields_are_checked() -> None:
    """A layer or field that scapy does not know is refused with the nearest names."""
    capture.check_name("IP.ttl")
    capture.check_name("TCP.flags")
    capture.check_name("VXLAN.vni")
    with pytest.raises(ValueError, match=r"layer IP has no field 'tll'.*did you mean 'ttl'"):
        capture.check_name("IP.tll")
    with pytest.raises(ValueError, match=r"no layer 'Tpc'; nearest: .*TCP"):
        capture.check_name("Tpc.flags")
    with pytest.raises(ValueError, match=r"not of the form Layer\.field"):
        capture.check_name("IP.")
    capture.check_name("IP.src#2")
    capture.check_name("GENEVE")
    with pytest.raises(ValueError, match=r"no layer 'ttl'"):
        capture.check_name("ttl")


# tunnels


def wrapped(scapy: Any, tunnel: Any, port: int) -> Frame:
    """Return a frame in which a tunnel between two nodes wraps a segment between two pods."""
    inside = ethernet(scapy) / scapy.IP(src="10.53.0.1", dst="10.53.0.65", ttl=63)
    inside = inside / scapy.TCP(sport=40000, dport=3306, flags="PA") / b"SELECT 1"
    outside = ethernet(scapy) / scapy.IP(src="172.19.0.2", dst="172.19.0.3")
    return frame(bytes(outside / scapy.UDP(sport=50000, dport=port) / tunnel / inside))


def test_what_vxlan_wraps_is_read_too(scapy: Any) -> None:
    """A tunnel's packet has its own addresses, and within it the packet of the pods."""
    found = packet(wrapped(scapy, scapy.VXLAN(vni=4096, flags="Instance"), 4789))
    assert found.flow == FiveTuple(UDP, "172.19.0.2", 50000, "172.19.0.3", 4789)
    assert found.innermost.flow == FiveTuple(TCP, "10.53.0.1", 40000, "10.53.0.65", 3306)
    assert (found.innermost.payload, found.innermost.ttl) == (b"SELECT 1", 63)


def test_what_geneve_wraps_is_read_too_behind_its_options(scapy: Any) -> None:
    """The same of Geneve, whose header has options of any length (RFC 8926, section 3.4)."""
    from scapy.contrib.geneve import GENEVE, GeneveOptions  # noqa: PLC0415 - as `scapy`

    option = GeneveOptions(classid=0x0104, type=1, length=1, data=b"\0\0\0\1")
    raw = wrapped(scapy, GENEVE(vni=71680, proto=0x6558, options=[option]), 6081)
    assert packet(raw).innermost.flow == FiveTuple(TCP, "10.53.0.1", 40000, "10.53.0.65", 3306)
    layered = capture.fields(raw)
    assert capture.has_layers(layered, ("Ether", "IP", "UDP", "GENEVE", "Ether", "IP", "TCP"))
    assert capture.value_of(layered, "GENEVE.vni") == 71680


def test_what_ip_in_ip_wraps_is_read_too(scapy: Any) -> None:
    """The inner packet follows the outer header at once, with no Ethernet between (RFC 2003)."""
    inside = scapy.IP(src="10.53.0.1", dst="10.53.0.65", ttl=63) / scapy.TCP(sport=40000, dport=80, flags="S")
    raw = frame(bytes(ethernet(scapy) / scapy.IP(src="172.19.0.2", dst="172.20.0.2") / inside))
    found = packet(raw)
    assert found.flow == FiveTuple(4, "172.19.0.2", 0, "172.20.0.2", 0)
    assert found.innermost.flow == FiveTuple(TCP, "10.53.0.1", 40000, "10.53.0.65", 80)
    assert (found.innermost.ttl, found.innermost.flags) == (63, "S")
    layered = capture.fields(raw)
    assert capture.has_layers(layered, ("Ether", "IP", "IP", "TCP"))
    assert capture.value_of(layered, "IP.src#2") == "10.53.0.1"


def test_a_repeated_layer_is_named_by_its_number(scapy: Any) -> None:
    """`IP.src` is the outermost, `IP.src#2` the second from outside; of a layer that is not there it is None."""
    layered = capture.fields(wrapped(scapy, scapy.VXLAN(vni=7, flags="Instance"), 4789))
    names = ("IP.src", "IP.src#2", "IP.src#3", "VXLAN.vni", "TCP.dport")
    assert [capture.value_of(layered, name) for name in names] == ["172.19.0.2", "10.53.0.1", None, 7, 3306]


def test_layers_are_in_order_from_outside(scapy: Any) -> None:
    """Others may lie between, but none may come too early or too seldom."""
    layered = capture.fields(wrapped(scapy, scapy.VXLAN(vni=7, flags="Instance"), 4789))
    assert capture.has_layers(layered, ("IP", "VXLAN", "IP"))
    assert not capture.has_layers(layered, ("VXLAN", "UDP"))
    assert not capture.has_layers(layered, ("IP", "IP", "IP"))


def test_the_checksums_of_what_a_tunnel_wraps_are_mended(scapy: Any) -> None:
    """A frame whose inner checksum was left to an interface is written as it would be on a wire."""
    right = wrapped(scapy, scapy.VXLAN(vni=7, flags="Instance"), 4789).data
    inner = right.index(b"SELECT 1") - 4  # the checksum is four bytes before the payload
    wrong = right[:40] + b"\0\0" + right[42:inner] + b"\x12\x34" + right[inner + 2 :]
    assert wrong != right
    assert mended(wrong) == right


def test_a_thousand_tunnels_are_not_looked_into(scapy: Any) -> None:
    """A frame that was made to hold tunnels without end is read as far as any real one goes."""
    network = scapy.IP(src="10.0.0.1", dst="10.0.0.2", len=0)  # up to the end of the frame
    raw = frame((bytes(ethernet(scapy) / network / scapy.UDP(dport=4789)) + b"\x08" * 8) * 1200)
    layered, depth = packet(raw), 0
    while layered.inner is not None:
        layered, depth = layered.inner, depth + 1
    assert 1 < depth < 10
    assert len(mended(raw.data)) == len(raw.data)


def test_other_datagrams_wrap_nothing(scapy: Any) -> None:
    """What only looks like a tunnel, or is cut off, is a datagram like others."""
    for data, port in (
        (b"\0" * 60, 4789),
        (b"\x08" + b"\0" * 5, 4789),
        (b"\xff" * 60, 6081),
        (b"x" * 60, 53),
    ):
        raw = ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(dport=port) / data
        assert packet(frame(bytes(raw))).inner is None


# reassembly


def test_stream_is_put_together_in_any_order() -> None:
    """Retransmissions, overlaps and what came out of order make the bytes that were sent, once each."""
    packets = [
        *opening(),
        segment(CLIENT, 4, "PA", 4, b"efgh"),
        segment(CLIENT, 5, "PA", 0, b"abcd"),
        segment(CLIENT, 6, "PA", 2, b"cdef"),
        segment(CLIENT, 7, "PA", 8, b"ij"),
        segment(SERVER, 8, "PA", 0, b"answer", ack=10),
        segment(SERVER, 9, "FA", 6, ack=10),
        segment(CLIENT, 10, "FA", 10, ack=7),
        segment(SERVER, 11, "A", 7, ack=11),
    ]
    assert capture.stream(packets, CLIENT) == (b"abcdefghij", b"answer")
    assert capture.stream(list(reversed(packets)), CLIENT) == (b"abcdefghij", b"answer")
    assert capture.stream(packets, SERVER) == (b"answer", b"abcdefghij")


def test_last_segment_may_carry_the_end() -> None:
    """Data in the segment of a FIN counts, and the FIN's own acknowledgement is no missing byte."""
    packets = [*opening(), segment(CLIENT, 4, "FPA", 0, b"bye"), segment(SERVER, 5, "A", 0, ack=4)]
    assert capture.stream(packets, CLIENT) == (b"bye", b"")


def test_reset_ends_what_was_sent() -> None:
    """A reset is no gap, whatever its numbers."""
    packets = [*opening(), segment(CLIENT, 4, "PA", 0, b"hi"), segment(SERVER, 5, "RA", 900, ack=2)]
    assert capture.stream(packets, CLIENT) == (b"hi", b"")


def test_flow_of_others_and_nothing_at_all() -> None:
    """Packets of other flows are passed over; without any packet nothing was sent."""
    other = FiveTuple(TCP, "10.9.9.9", 1, "10.9.9.8", 2)
    assert capture.stream(opening(), other) == (b"", b"")
    assert capture.stream(opening(), CLIENT) == (b"", b"")


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        (
            [segment(CLIENT, 4, "PA", 0, b"ab"), segment(CLIENT, 5, "PA", 4, b"ef")],
            "bytes 2 to 3 were not recorded",
        ),
        ([segment(SERVER, 4, "A", 0, ack=20)], "bytes 0 to 19 were not recorded"),
        ([segment(CLIENT, 4, "FA", 7)], "bytes 0 to 6 were not recorded"),
        ([segment(CLIENT, 4, "S", 5000)], "2 connections had this 5-tuple"),
    ],
)
def test_gaps_are_lost_evidence(rest: list[Packet], sentence: str) -> None:
    """A byte that is missing in the middle or at the end, or a port used twice, is said; nothing is guessed."""
    with pytest.raises(LostEvidence, match=sentence):
        capture.stream([*opening(), *rest], CLIENT)


def test_missing_beginning_is_lost_evidence() -> None:
    """Without the SYN nobody can tell which byte was the first."""
    with pytest.raises(LostEvidence, match="the beginning of the connection was not recorded"):
        capture.stream([segment(CLIENT, 4, "PA", 0, b"late")], CLIENT)


def test_cut_off_frame_is_lost_evidence() -> None:
    """Of a frame that was recorded in part the rest is missing, and that is said."""
    whole = segment(CLIENT, 4, "PA", 0, b"abcd")
    raw = frame(b"x" * 58, 4, length=1058)
    part = packet_of(CLIENT, "PA", (whole.seq, 0), b"abcd", raw)
    with pytest.raises(LostEvidence, match="bytes 4 to 1003 were not recorded"):
        capture.stream([*opening(), part], CLIENT)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_cut_of_a_stream_makes_the_stream(content: bytes, data: st.DataObject) -> None:
    """However a stream was cut, repeated and shuffled, the same bytes come out."""
    cuts = sorted({0, len(content), *data.draw(st.lists(st.integers(0, len(content)), max_size=8))})
    pieces = [(start, content[start:end]) for start, end in pairwise(cuts)]
    pieces += data.draw(st.lists(st.sampled_from(pieces), max_size=4))
    shuffled = data.draw(st.permutations(pieces))
    packets = [
        segment(CLIENT, 4 + number, "A", start, piece) for number, (start, piece) in enumerate(shuffled)
    ]
    assert capture.stream([*opening(), *packets], CLIENT)[0] == content


# TLS


@pytest.mark.parametrize(
    "content", [HELLO + APPLICATION, HELLO + APPLICATION * 3 + APPLICATION[:6], HELLO + APPLICATION + b"\x17"]
)
def test_tls_is_known(content: bytes) -> None:
    """Records from the first byte with application data are TLS, also when the last one is cut off."""
    assert capture.is_tls(content) is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "nothing was sent"),
        (b"CONNECT www.f5.com:443 HTTP/1.1\r\n", "byte 0 does not start a TLS record (type 67)"),
        (HELLO, "no application data, only handshake"),
        (HELLO + b"GET / HTTP/1.1", "byte 10 does not start a TLS record (type 71)"),
        (APPLICATION, "application data comes before any handshake"),
        (bytes.fromhex("1605010005") + APPLICATION, "version 0x0501"),
        (bytes.fromhex("160301ffff") + APPLICATION, "length 65535"),
        (bytes.fromhex("1603010000") + APPLICATION, "length 0"),
    ],
)
def test_what_is_not_tls_has_a_reason(content: bytes, reason: str) -> None:
    """Anything else says where it stops being TLS, and why."""
    assert reason in str(capture.is_tls(content))


# the capture file


def written(taps: list[TapInfo], records: list[tuple[int, Frame, str | None]]) -> bytes:
    """Return a file's bytes."""
    file = io.BytesIO()
    capture.write_pcapng(file, taps, records)
    return file.getvalue()


def test_wireshark_reads_the_file(tmp_path: Path, scapy: Any) -> None:
    """Wireshark shows the frames in order of time, each with tap, direction, comment and nanoseconds."""
    data = bytes(
        ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(sport=5, dport=6) / b"odd"
    )
    file = tmp_path / "run.pcapng"
    capture.write_pcapng(
        file,
        [TapInfo("bigip.nodes", "the proxy's side of the cluster"), TapInfo("pod.eth0")],
        [
            (1, frame(data, 1_700_000_000_000_000_003, outgoing=False), "scenario 7: held"),
            (0, frame(data, 1_700_000_000_000_000_002), None),
        ],
    )
    names = (
        "frame.interface_name",
        "frame.interface_description",
        "frame.packet_flags_direction",
        "frame.comment",
    )
    wanted = [word for name in ("frame.time_epoch", *names) for word in ("-e", name)]
    lines = tshark(file, "-n", "-T", "fields", "-E", "separator=|", *wanted)
    assert lines == [
        "1700000000.000000002|bigip.nodes|the proxy's side of the cluster|0x00000002|",
        "1700000000.000000003|pod.eth0||0x00000001|scenario 7: held",
    ]


def test_wireshark_knows_the_names(tmp_path: Path, scapy: Any) -> None:
    """Addresses are shown by the names that the file gives them, the first of several."""
    data = bytes(ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(sport=5, dport=6))
    file = tmp_path / "named.pcapng"
    names = {IPv4Address("10.0.0.1"): ["pod.shop"], IPv4Address("10.0.0.2"): ["bigip.dmz", "exit.bigip"]}
    capture.write_pcapng(file, [TapInfo("a")], [(0, frame(data), None)], names=names)
    (line,) = tshark(file, "-N", "n", "-T", "fields", "-e", "ip.src_host", "-e", "ip.dst_host")
    assert line.split() == ["pod.shop", "bigip.dmz"]


def test_secrets_stand_before_the_first_packet(scapy: Any) -> None:
    """A reader that reads once has what decrypts a packet before it comes; without secrets there is no such block."""
    secrets = b"CLIENT_RANDOM " + b"ab" * 32 + b" " + b"cd" * 24 + b"\n"
    records: list[tuple[int, Frame, str | None]] = [(0, frame(bytes(ethernet(scapy))), None)]
    file = io.BytesIO()
    capture.write_pcapng(file, [TapInfo("a")], records, secrets=secrets)
    found = list(blocks(file.getvalue()))
    assert [kind for kind, _ in found] == [0x0A0D0D0A, 1, 10, 6]
    assert found[2][1][:8] == struct.pack("=II", 0x544C534B, len(secrets))
    assert found[2][1][8:].rstrip(b"\0") == secrets
    assert [kind for kind, _ in blocks(written([TapInfo("a")], records))] == [0x0A0D0D0A, 1, 6]


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each block of a file."""
    offset = 0
    while offset < len(data):
        kind, length = struct.unpack_from("=II", data, offset)
        yield kind, data[offset + 8 : offset + length - 4]
        offset += length


@pytest.mark.parametrize("size", [0, 1, 2, 1399, 60000])
@pytest.mark.parametrize("layer", ["TCP", "UDP"])
@pytest.mark.parametrize("version", ["IP", "IPv6"])
def test_checksums_are_mended_to_scapys(scapy: Any, version: str, layer: str, size: int) -> None:
    """A checksum that was left to the interface becomes the one that scapy computes."""
    network = (
        scapy.IP(src="10.0.0.1", dst="10.0.0.2")
        if version == "IP"
        else scapy.IPv6(src="2001:db8::1", dst="2001:db8::2")
    )
    whole = ethernet(scapy) / network / getattr(scapy, layer)(sport=5, dport=6) / (b"\xff\x01" * size)[:size]
    right = bytes(whole)
    whole[layer].chksum = 0xBEEF
    assert mended(bytes(whole)) == right


def test_only_unready_checksums_are_touched(scapy: Any) -> None:
    """A wrong checksum that was really on the wire stays wrong in the file."""
    wrong = bytes(
        ethernet(scapy) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(chksum=0xBEEF) / b"x"
    )
    unready = frame(wrong)._replace(checksum_ready=False)
    assert wrong in written([TapInfo("a")], [(0, frame(wrong), None)])
    assert wrong not in written([TapInfo("a")], [(0, unready, None)])


def test_file_without_frames_is_a_file(tmp_path: Path) -> None:
    """A run that recorded nothing leaves a file that opens and shows nothing."""
    file = tmp_path / "empty.pcapng"
    capture.write_pcapng(file, [TapInfo("a")], [])
    assert tshark(file) == []


def test_tunnels_have_their_own_link_type(tmp_path: Path, scapy: Any) -> None:
    """Frames without an Ethernet header are shown as IP beside those with one."""
    ip = scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(dport=4789)
    file = tmp_path / "tunnel.pcapng"
    records: list[tuple[int, Frame, str | None]] = [
        (0, frame(bytes(ethernet(scapy) / ip)), None),
        (1, frame(bytes(ip)), None),
    ]
    capture.write_pcapng(file, [TapInfo("a"), TapInfo("tunl0", link=RAW_IP)], records)
    assert tshark(file, "-n", "-T", "fields", "-e", "ip.dst") == ["10.0.0.2", "10.0.0.2"]


def test_blocks_repeat_their_length(scapy: Any) -> None:
    """Every block ends with its length, so that readers may go backwards, and the lengths add up to the file."""
    data = written([TapInfo("odd name", "comment")], [(0, frame(bytes(ethernet(scapy)) + b"xyz"), "c")])
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from("=I", data, offset + 4)
        assert length % 4 == 0
        assert struct.unpack_from("=I", data, offset + length - 4) == (length,)
        offset += length
    assert offset == len(data)
