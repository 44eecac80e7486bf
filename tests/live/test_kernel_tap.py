"""The packet ring: what it hears, how it stamps, what it does not hear."""

from __future__ import annotations

import os
import select
import socket
import struct
import time

import pytest
from own_namespace import alone
from two_spaces import FAR, FAR_INDEX, NEAR, NEAR_INDEX, exchange, inside, join

from harness.capture import dissect, stream
from harness.netlink import Socket, link_set
from harness.pcapng import mended
from harness.programs import tap as taps
from harness.programs.fivetuple import TCP

pytestmark = pytest.mark.live


class Frames:
    """A tap whose frames come decoded."""

    def __init__(self, tap: taps.Tap) -> None:
        self._tap = tap

    def until_nonce(self, index: int) -> list[taps.Frame]:
        """Send a nonce and return all frames up to it, which proves that what came before it is there."""
        token = os.urandom(taps.NONCE_BYTES)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            taps.send_nonce(raw, index, token)
        return self.until_token(token)

    def until_token(self, token: bytes) -> list[taps.Frame]:
        """Return all frames up to the one with this token."""
        found: list[taps.Frame] = []
        while not any(taps.nonce_of(frame) == token for frame in found):
            assert select.select([self._tap], [], [], 10)[0], f"no nonce in {len(found)} frames"
            found += [frame for block in self._tap.drain() for frame in taps.frames(block)]
        return found


def datagrams() -> socket.socket:
    """Return a new UDP socket."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@alone
def test_frames_tell_interface_direction_and_time() -> None:
    """Each end of a pair sees a frame once, outgoing at one and incoming at the other, in order."""
    home, away = join()
    near = taps.Tap()
    near.start()
    with inside(home, away):
        far = taps.Tap()
        far.start()
    before = time.time_ns()
    exchange(8080, b"up", b"down", away=away, home=home)
    here = Frames(near).until_nonce(NEAR_INDEX)
    with inside(home, away):
        there = Frames(far).until_nonce(FAR_INDEX)
    after = time.time_ns()
    mine = [packet for frame in here if (packet := dissect(frame, "near")) and packet.flow.protocol == TCP]
    theirs = [packet for frame in there if (packet := dissect(frame, "far")) and packet.flow.protocol == TCP]
    assert [packet.flags for packet in mine[:2]] == ["S", "SA"]
    assert [packet.outgoing for packet in mine] == [packet.flow.src == NEAR for packet in mine]
    assert [packet.outgoing for packet in theirs] == [packet.flow.src == FAR for packet in theirs]
    assert {packet.frame.ifindex for packet in mine} == {NEAR_INDEX}
    assert {packet.frame.ifindex for packet in theirs} == {FAR_INDEX}
    assert all(before <= packet.time <= after for packet in mine + theirs)
    sent = {(packet.seq, packet.flags): packet.time for packet in mine if packet.outgoing}
    assert all(sent[packet.seq, packet.flags] <= packet.time for packet in theirs if not packet.outgoing)
    near.close()
    far.close()


@alone
def test_loopback_shows_twice() -> None:
    """A frame over loopback is kept once outgoing and once incoming, as two interfaces would."""
    join()
    with taps.Tap() as tap, datagrams() as sender, datagrams() as receiver:
        receiver.bind(("127.0.0.1", 9))  # otherwise ICMP errors would be heard as well
        tap.start()
        sender.sendto(b"once", ("127.0.0.1", 9))
        frames = [frame for frame in Frames(tap).until_nonce(1) if frame.data.endswith(b"once")]
    assert sorted(frame.outgoing for frame in frames) == [False, True]
    assert {frame.hardware for frame in frames} == {taps.LOOPBACK}


@alone
def test_nothing_is_heard_before_start() -> None:
    """A tap that was not started records nothing, so that a start divides before from after."""
    join()
    with taps.Tap() as tap, datagrams() as sender:
        sender.sendto(b"too early", ("127.0.0.1", 9))
        tap.start()
        frames = Frames(tap).until_nonce(NEAR_INDEX)
    assert not any(b"too early" in frame.data for frame in frames)


@alone
def test_nonce_comes_back_through_the_far_ring_too() -> None:
    """A nonce is seen outgoing where it was sent and incoming at the other end, with its token."""
    home, away = join()
    with inside(home, away):
        far = taps.Tap()
        far.start()
    token = b"0123456789abcdef"
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        taps.send_nonce(raw, NEAR_INDEX, token)
    (frame,) = [found for found in Frames(far).until_token(token) if taps.nonce_of(found) == token]
    assert (frame.outgoing, frame.ifindex, frame.protocol) == (False, FAR_INDEX, taps.NONCE_PROTOCOL)
    far.close()


@alone
def test_nonce_on_an_interface_that_is_down_is_an_error() -> None:
    """What cannot be sent is said, not taken for sent."""
    join()
    with Socket() as route, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        route.send([link_set(NEAR_INDEX, up=False)])
        with pytest.raises(OSError, match="nonce out of interface 2"):
            taps.send_nonce(raw, NEAR_INDEX, b"0" * 16)
        with pytest.raises(ValueError, match="16 bytes"):
            taps.send_nonce(raw, NEAR_INDEX, b"short")


@alone
def test_offloaded_frames_are_whole() -> None:
    """Frames far over the MTU, of segmentation offload, are kept whole; the stream fits together."""
    home, away = join()
    content = os.urandom(300_000)
    with taps.Tap(block_size=1 << 20) as tap:
        tap.start()
        client = exchange(8080, content, b"done", away=away, home=home)
        frames = Frames(tap).until_nonce(NEAR_INDEX)
        assert tap.statistics()[1] == 0
    packets = [packet for frame in frames if (packet := dissect(frame, "near"))]
    assert max(frame.length for frame in frames) > 9000
    assert all(len(frame.data) == frame.length for frame in frames)
    flow = next(packet.flow for packet in packets if (packet.flow.src, packet.flow.sport) == client)
    assert stream(packets, flow) == (content, b"done")


@alone
def test_unfinished_checksums_are_mended() -> None:
    """A frame whose checksum was left to the interface says so, and mending makes the checksum right."""
    home, away = join()
    with taps.Tap() as tap:
        tap.start()
        exchange(8080, b"odd", b"down", away=away, home=home)
        frames = Frames(tap).until_nonce(NEAR_INDEX)
    unready = [frame for frame in frames if not frame.checksum_ready]
    assert unready
    for frame in unready:
        data = mended(frame.data)
        assert _sums_up(data)
        assert len(data) == len(frame.data)


@alone
def test_statistics_add_up_and_a_full_ring_counts_drops() -> None:
    """Readings are totals though the kernel starts anew at each, and drops are among them."""
    join()
    with (
        taps.Tap(block_size=1 << 12, blocks=2) as tap,
        datagrams() as sender,
    ):
        tap.start()
        for _ in range(10):
            sender.sendto(b"x" * 1000, ("127.0.0.1", 9))
        first = tap.statistics()
        for _ in range(10):
            sender.sendto(b"x" * 1000, ("127.0.0.1", 9))
        second = tap.statistics()
    assert second[0] > first[0] >= 20
    assert second[1] > first[1] > 0


@alone
def test_larger_than_a_block_is_cut_and_says_so() -> None:
    """A frame that fits no block is kept in part; its length tells that there was more."""
    join()
    with taps.Tap(block_size=1 << 12) as tap, datagrams() as sender:
        tap.start()
        sender.sendto(b"x" * 20_000, ("127.0.0.1", 9))
        frames = [frame for frame in Frames(tap).until_nonce(1) if frame.length > 20_000]
    assert frames
    assert all(len(frame.data) < frame.length for frame in frames)


@alone
def test_blocks_come_round() -> None:
    """Ten times as many frames as the ring holds all arrive, once, in order, when somebody drains."""
    join()
    with (
        taps.Tap(block_size=1 << 14, blocks=4) as tap,
        datagrams() as sender,
        datagrams() as receiver,
    ):
        tap.start()
        receiver.bind(("127.0.0.1", 9))  # otherwise ICMP errors would be heard as well
        seen: list[int] = []
        for number in range(600):
            sender.sendto(struct.pack("=I", number) * 250, ("127.0.0.1", 9))
            if number % 10 == 9:
                seen += _numbers(Frames(tap).until_nonce(1))
        assert tap.statistics()[1] == 0
    assert seen == list(range(600))


def _numbers(frames: list[taps.Frame]) -> list[int]:
    packets = (dissect(frame, "lo") for frame in frames if frame.outgoing)
    return [
        struct.unpack_from("=I", packet.payload)[0] for packet in packets if packet and packet.flow.dport == 9
    ]


def _sums_up(data: bytes) -> bool:
    """Verify a TCP checksum over IPv4 word by word (RFC 1071)."""
    length = int.from_bytes(data[16:18], "big") - 20
    covered = data[26:34] + struct.pack(">HH", 6, length) + data[34 : 34 + length]
    covered += b"\0" * (len(covered) % 2)
    total: int = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF
