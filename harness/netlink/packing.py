"""Values in the form that netlink attributes have (netlink(7)): host byte order, padded to 4 bytes."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    """Return an attribute that is a number of 32 bits."""
    return struct.pack("=HHI", 8, kind, value)


def string(kind: int, value: str) -> bytes:
    """Return an attribute that is text."""
    return attribute(kind, value.encode() + b"\0")


def family(text: str) -> socket.AddressFamily:
    """Tell the address family of an address or prefix."""
    return socket.AF_INET6 if ":" in text else socket.AF_INET


def packed(text: str) -> bytes:
    """Return an address as bytes; raises ValueError when the text is none."""
    try:
        return socket.inet_pton(family(text), text)
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def prefix(text: str) -> tuple[bytes, int]:
    """Return `ip/prefix` as bytes and length; raises ValueError when the text is none."""
    ip, slash, length = text.partition("/")
    found = packed(ip)
    longest = len(found) * 8
    if not slash:
        return found, longest
    if not length.isdecimal() or int(length) > longest:
        raise ValueError(f"{text!r} is not ip/prefix")
    return found, int(length)


@lru_cache(maxsize=4096)
def mac(text: str) -> bytes:
    """Return `aa:bb:cc:dd:ee:ff` as bytes; raises ValueError when the text is none."""
    try:
        found = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        found = b""
    if len(found) != 6:
        raise ValueError(f"{text!r} is not a MAC address")
    return found
