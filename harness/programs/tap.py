"""One packet ring for a whole network namespace: every frame of every interface, stamped by the kernel.

Blocks of frames are copied out as they are and decoded only when somebody asks, so that recording costs next
to nothing a frame. Source: packet(7), Documentation/networking/packet_mmap.rst, linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

NONCE_PROTOCOL = 0x88B5
"""The EtherType for local experiments (IEEE 802), which no stack answers."""
NONCE_BYTES = 16
ETHERNET, LOOPBACK = 1, 772
"""ARPHRD numbers of interfaces whose frames start with an Ethernet header."""

_NONCE_DESTINATION = bytes.fromhex("020088b500fe")  # locally administered, and nobody's
_NONCE_SOURCE = bytes.fromhex("020088b500fd")
_SHORTEST_FRAME = 60
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION, _V3 = 263, 5, 6, 10, 2
_ETH_P_ALL = 3
_OUTGOING = 4
_USER = 0x1
_CHECKSUM_NOT_READY, _VLAN_VALID, _VLAN_TPID_VALID = 0x8, 0x10, 0x40
_RETIRE_MS = 8
_FRAME_SIZE = 1 << 11  # the third version fills blocks without regard to it, yet wants it to divide them

_BLOCK = struct.Struct("=II")  # status, number of packets: struct tpacket_hdr_v1 behind version and offset
_STATUS_OFFSET, _FIRST_OFFSET, _LENGTH_OFFSET = 8, 16, 20
_PACKET = struct.Struct("=IIIIIIHHIIH")  # struct tpacket3_hdr
_ADDRESS = struct.Struct("=HHiHB")  # struct sockaddr_ll, up to the packet type
_ADDRESS_OFFSET = 48  # behind the header, on a multiple of 16

_libc = ctypes.CDLL(None, use_errno=True)


class Frame(NamedTuple):
    """One frame as an interface saw it; a named tuple, which takes a third of a data class's time to make.

    `time` is in ns since the epoch; `outgoing` tells frames that the host sent on the interface. A frame over
    loopback shows twice, once each way. `length` is in bytes on the wire, more than `data` when the frame did
    not fit a block. `checksum_ready` is False when the interface was left to fill in the TCP or UDP checksum.
    `vlan` is the tag's control field, whose tag is back in `data`. `hardware` is the ARPHRD number: for
    others than ETHERNET and LOOPBACK `data` starts with what `protocol`, an EtherType, says.
    """

    time: int
    ifindex: int
    outgoing: bool
    length: int
    data: bytes
    checksum_ready: bool = True
    vlan: int | None = None
    hardware: int = ETHERNET
    protocol: int = 0


class Tap:
    """A ring in the network namespace that the calling thread is in now; it stays there for good.

    Frames of up to 65 KB, which is what segmentation offload makes, fit a block of the default 128 KB; of
    larger ones (only with BIG TCP) the end is cut off. A block is given to us when it is full, or `retire_ms` after its
    first frame; the kernel looks that often whether there is one, which takes it some 10 us each time. `drain` may be
    called by one thread, the rest by any.
    """

    def __init__(self, block_size: int = 1 << 17, blocks: int = 8, retire_ms: int = _RETIRE_MS) -> None:
        self._block_size = block_size
        self._next = 0
        self._totals = (0, 0)
        self._turn = threading.Lock()
        # protocol 0 hears nothing: otherwise frames would queue up before the ring is there
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _V3)
            frames_in_all = block_size * blocks // _FRAME_SIZE
            ring = struct.pack("=7I", block_size, blocks, _FRAME_SIZE, frames_in_all, retire_ms, 0, 0)
            self._set_ring(ring)
            self._ring = mmap.mmap(self._socket.fileno(), block_size * blocks, mmap.MAP_SHARED)
        except BaseException:
            self._socket.close()
            raise

    def _set_ring(self, ring: bytes) -> None:
        """Make the ring; the kernel waits for every processor, and Python's own setsockopt lets no thread run then."""
        if _libc.setsockopt(self._socket.fileno(), _SOL_PACKET, _RX_RING, ring, len(ring)):
            number = ctypes.get_errno()
            raise OSError(number, f"make a packet ring: {os.strerror(number)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Hear every interface of the namespace, present and future, from now on."""
        address = struct.pack("=H2sixxxxxxxxxxxx", socket.AF_PACKET, _ETH_P_ALL.to_bytes(2, "big"), 0)
        if _libc.bind(self._socket.fileno(), address, len(address)):
            number = ctypes.get_errno()
            raise OSError(number, f"hear all interfaces: {os.strerror(number)}")

    def fileno(self) -> int:
        """Return the descriptor, readable when a block is full or has waited for its timer."""
        return self._socket.fileno()

    def drain(self) -> list[bytes]:
        """Return the used part of each block that is done, oldest first, without waiting."""
        found: list[bytes] = []
        while True:
            start = self._next * self._block_size
            if not _BLOCK.unpack_from(self._ring, start + _STATUS_OFFSET)[0] & _USER:
                return found
            (used,) = struct.unpack_from("=I", self._ring, start + _LENGTH_OFFSET)
            found.append(self._ring[start : start + used])
            struct.pack_into("=I", self._ring, start + _STATUS_OFFSET, 0)
            self._next = (self._next + 1) % (len(self._ring) // self._block_size)

    def statistics(self) -> tuple[int, int]:
        """Return how many frames came since the tap was made, and how many of them found no room."""
        with self._turn:
            # the kernel starts anew at each reading
            now = struct.unpack("=III", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))
            self._totals = (self._totals[0] + now[0], self._totals[1] + now[1])
            return self._totals

    def close(self) -> None:
        """Stop and give the memory back; takes some ms, for the kernel waits for every processor."""
        self._ring.close()
        self._socket.close()


def frames(block: bytes) -> Iterator[Frame]:
    """Decode a block that `Tap.drain` returned."""
    (count,) = struct.unpack_from("=I", block, _STATUS_OFFSET + 4)
    (offset,) = struct.unpack_from("=I", block, _FIRST_OFFSET)
    for _ in range(count):
        following, seconds, nanoseconds, captured, length, status, mac, _, _, tci, tpid = _PACKET.unpack_from(
            block, offset
        )
        _, protocol, ifindex, hardware, kind = _ADDRESS.unpack_from(block, offset + _ADDRESS_OFFSET)
        data = block[offset + mac : offset + mac + captured]
        vlan = None
        if status & _VLAN_VALID:
            vlan = tci
            name = tpid if status & _VLAN_TPID_VALID else 0x8100
            data = data[:12] + struct.pack(">HH", name, tci) + data[12:]
            length += 4
        yield Frame(
            seconds * 1_000_000_000 + nanoseconds,
            ifindex,
            kind == _OUTGOING,
            length,
            data,
            not status & _CHECKSUM_NOT_READY,
            vlan,
            hardware,
            socket.ntohs(protocol),
        )
        offset += following


def send_nonce(sock: socket.socket, ifindex: int, token: bytes) -> None:
    """Send a frame that only a tap notices, out of one interface.

    `sock` is a raw AF_PACKET socket that was opened in the interface's namespace; the token has 16 bytes.
    Raises OSError, ENETDOWN when the interface is down.
    """
    if len(token) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(token)}")
    protocol = NONCE_PROTOCOL.to_bytes(2, "big")
    frame = (_NONCE_DESTINATION + _NONCE_SOURCE + protocol + token).ljust(_SHORTEST_FRAME, b"\0")
    address = struct.pack("=H2siHBB8s", socket.AF_PACKET, protocol, ifindex, 0, 0, 6, _NONCE_DESTINATION)
    if _libc.sendto(sock.fileno(), frame, len(frame), 0, address, len(address)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"send a nonce out of interface {ifindex}: {os.strerror(number)}")


def nonce_of(frame: Frame) -> bytes | None:
    """Return the token of a frame that `send_nonce` sent, None for any other."""
    data = frame.data
    if data[:6] != _NONCE_DESTINATION or data[12:14] != NONCE_PROTOCOL.to_bytes(2, "big"):
        return None
    return data[14 : 14 + NONCE_BYTES]
