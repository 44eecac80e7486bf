"""Whose a certificate is: what SPIFFE has a validator look at beyond the path to a trusted root.

X509-SVID, 5.2: exactly one URI name, of the scheme `spiffe` and with a path; no CA flag, no keyCertSign, no cRLSign.
SPIFFE-ID, 2: a trust domain of lower-case letters, digits, `.`, `-` and `_`; path segments of letters, digits and
those, none empty, `.` or `..`; nothing percent-encoded; no user, port, query or fragment; at most 2048 bytes in all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 2048
"""Bytes (SPIFFE-ID, 2.3)."""
LONGEST_DOMAIN = 255
"""Bytes (SPIFFE-ID, 2.1 and 2.3)."""

_FORM = re.compile(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._-]+)+)")
_DOTS = {".", ".."}
_SUBJECT_ALT_NAME, _KEY_USAGE, _BASIC_CONSTRAINTS = b"\x55\x1d\x11", b"\x55\x1d\x0f", b"\x55\x1d\x13"
_BOOLEAN, _BITS, _OCTETS, _OBJECT, _SEQUENCE, _URI, _EXTENSIONS = 0x01, 0x03, 0x04, 0x06, 0x30, 0x86, 0xA3
_CERT_SIGN, _CRL_SIGN = 0x04, 0x02
"""Bits 5 and 6 of key usage (RFC 5280, 4.2.1.3), counted from the left."""


@dataclass(frozen=True)
class Names:
    """What a certificate says of its holder: its URI names, and whether it is an authority's by any sign."""

    uris: tuple[str, ...]
    authority: bool


def names_of(der: bytes) -> Names:
    """Read a certificate's extensions field by field; raises ValueError for what is no DER certificate."""
    uris: list[str] = []
    authority = False
    certificate = _elements(_only(_elements(der), _SEQUENCE))
    if not certificate:
        raise ValueError("an empty certificate")
    for tag, field in _elements(certificate[0][1]):
        for kind, value in _extensions(field) if tag == _EXTENSIONS else ():
            if kind == _SUBJECT_ALT_NAME:
                found = _elements(_only(_elements(value), _SEQUENCE))
                uris += [name.decode("latin-1") for tag, name in found if tag == _URI]
            elif kind == _BASIC_CONSTRAINTS:
                flags = _elements(_only(_elements(value), _SEQUENCE))
                authority |= any(tag == _BOOLEAN and flag != b"\0" for tag, flag in flags)
            elif kind == _KEY_USAGE:
                bits = _only(_elements(value), _BITS)
                authority |= bool(bits[1:2]) and bool(bits[1] & (_CERT_SIGN | _CRL_SIGN))
    return Names(tuple(uris), authority)


def is_spiffe_id(name: str) -> bool:
    """Tell whether a URI name is a workload's SPIFFE ID, by its form."""
    found = _FORM.fullmatch(name)
    return (
        found is not None
        and len(name) <= LONGEST
        and len(found[1]) <= LONGEST_DOMAIN
        and not _DOTS & set(found[2].split("/"))
    )


def identity_of(names: Names) -> tuple[str | None, str]:
    """Return the identity that a certificate gives, or None and why it gives none."""
    if names.authority:
        return None, "an authority's certificate"
    if len(names.uris) != 1:
        return None, f"{len(names.uris) or 'no'} URI names"
    if not is_spiffe_id(names.uris[0]):
        return None, "no SPIFFE ID"
    return names.uris[0], ""


def _extensions(field: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the identifier and the value of each extension (RFC 5280, 4.1)."""
    for _, extension in _elements(_only(_elements(field), _SEQUENCE)):
        parts = _elements(extension)
        if len(parts) < 2 or parts[0][0] != _OBJECT or parts[-1][0] != _OCTETS:
            raise ValueError("no extension")
        yield parts[0][1], parts[-1][1]


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of a DER string, each with its tag; raises ValueError."""
    found, at = [], 0
    while at < len(der):
        if at + 2 > len(der) or der[at] & 0x1F == 0x1F:
            raise ValueError("no DER")
        tag, length, at = der[at], der[at + 1], at + 2
        if length >= 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= 3:
                raise ValueError("no DER length")
            length, at = int.from_bytes(der[at : at + octets], "big"), at + octets
        if at + length > len(der):
            raise ValueError("cut short")
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _only(elements: list[tuple[int, bytes]], tag: int) -> bytes:
    if len(elements) != 1 or elements[0][0] != tag:
        raise ValueError("not the one element expected")
    return elements[0][1]
