"""Filters in the language of pcap-filter(7) over recorded frames, by libpcap through ctypes.

scapy would start tcpdump to compile a filter. Debian has the library as libpcap0.8.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from harness.errors import MissingCapability
from harness.tools import load_library

if TYPE_CHECKING:
    from collections.abc import Callable

_ETHERNET, _RAW_IP = 1, 12  # DLT_EN10MB, DLT_RAW
_LONGEST = 1 << 18
_NETMASK_UNKNOWN = 0xFFFFFFFF

_turn = threading.Lock()


class FilterError(ValueError):
    """The filter is not of the language; the text is libpcap's."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _PacketHeader(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


def check_filter(bpf: str) -> None:
    """See that a filter compiles.

    Raises FilterError with libpcap's sentence, and MissingCapability where libpcap is not installed.
    """
    compiled(bpf, ethernet=True)


def unknown_filter(bpf: str | None) -> str | None:
    """Return what is wrong with a filter, None for nothing, for no filter, and where nobody can say (no libpcap)."""
    try:
        if bpf is not None:
            check_filter(bpf)
    except FilterError as error:
        return str(error)
    except MissingCapability:
        return None
    return None


@lru_cache(maxsize=256)
def compiled(bpf: str, *, ethernet: bool) -> Callable[[bytes, int], bool]:
    """Return a function of a frame's data and length on the wire that tells whether the filter accepts it.

    Frames start with an Ethernet header or, without `ethernet`, with an IP header. Raises as `check_filter`
    does.
    """
    library = _library()
    program = _Program()
    with _turn:  # the parser of older versions has one state for all
        handle = library.pcap_open_dead(_ETHERNET if ethernet else _RAW_IP, _LONGEST)
        if not handle:
            raise MemoryError("libpcap gave no handle")
        try:
            if library.pcap_compile(handle, ctypes.byref(program), bpf.encode(), 1, _NETMASK_UNKNOWN):
                said = library.pcap_geterr(handle).decode(errors="replace")
                raise FilterError(f"{bpf!r} is not a packet filter: {said}")
        finally:
            library.pcap_close(handle)

    def accepts(data: bytes, length: int) -> bool:
        header = _PacketHeader(0, 0, len(data), length)
        return bool(library.pcap_offline_filter(ctypes.byref(program), ctypes.byref(header), data))

    return accepts


@cache
def _library() -> ctypes.CDLL:
    try:
        library = load_library("libpcap.so.0.8")
    except MissingCapability as error:
        raise MissingCapability(
            "libpcap", "packet filters need libpcap, which is not installed: apt-get install libpcap0.8"
        ) from error
    pointer = ctypes.c_void_p
    library.pcap_open_dead.restype = pointer
    library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    library.pcap_compile.argtypes = [pointer, pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32]
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = [pointer]
    library.pcap_close.argtypes = [pointer]
    library.pcap_close.restype = None
    library.pcap_offline_filter.argtypes = [pointer, pointer, ctypes.c_char_p]
    return library
