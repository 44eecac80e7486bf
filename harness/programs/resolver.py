"""Names to IPv4 addresses, as a pod's stub resolver finds them.

The C library's resolver would ask from whatever namespace the thread is in, and would block the loop.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from random import randrange
from typing import TYPE_CHECKING

from .wire import EndedError, Steps, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ATTEMPTS = 2
INTERVAL = 1.0
"""Seconds until a query is asked again, and until the last one is given up."""
ALIASES = 8
"""How many CNAMEs are followed."""

_A, _CNAME, _IN = 1, 5, 1
_CODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


class ResolveError(Exception):
    """A name could not be resolved; the message says who said what."""


@dataclass(frozen=True)
class Resolver:
    """A node's resolv.conf and hosts file."""

    nameserver: str | None
    search: tuple[str, ...] = ()
    ndots: int = 1
    hosts: Mapping[str, str] = field(default_factory=dict)
    port: int = 53

    @classmethod
    def parse(cls, resolv_conf: str, hosts: str = "") -> Resolver:
        """Read the text of both files; only the first nameserver is asked."""
        nameserver: str | None = None
        search: tuple[str, ...] = ()
        ndots = 1
        for line in resolv_conf.splitlines():
            match line.split():
                case ["nameserver", address, *_] if nameserver is None:
                    nameserver = address
                case ["search", *domains]:
                    search = tuple(domains)
                case ["options", *options]:
                    for option in options:
                        if option.startswith("ndots:"):
                            ndots = int(option.removeprefix("ndots:"))
        known: dict[str, str] = {}
        for line in hosts.splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            for name in names:
                known.setdefault(name.lower(), address)
        return cls(nameserver, search, ndots, known)

    def known(self, host: str) -> str | None:
        """Return the address when `host` is one, or stands in the hosts file."""
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            return self.hosts.get(host.lower())

    def candidates(self, host: str) -> tuple[str, ...]:
        """List the full names to ask for, in order (resolv.conf(5): search, ndots)."""
        if host.endswith("."):
            return (host.rstrip("."),)
        searched = tuple(f"{host}.{domain.strip('.')}" for domain in self.search)
        return (host, *searched) if host.count(".") >= self.ndots else (*searched, host)


@dataclass(frozen=True)
class Reply:
    """What a server said of a name: its addresses, or where its chain of CNAMEs ends without one."""

    addresses: tuple[str, ...] = ()
    alias: str | None = None


def look_up(
    open_socket: Callable[[str, int, int, int], socket.socket],
    node: str,
    resolver: Resolver,
    host: str,
    deadline: float,
) -> Steps[str]:
    """Return a name's address, asked for from a node; raises EndedError and OSError."""
    with open_socket(node, socket.AF_INET, socket.SOCK_DGRAM, 0) as sock:
        return (yield from resolve(Wire(sock, deadline), resolver, host))


def resolve(wire: Wire, resolver: Resolver, host: str) -> Steps[str]:
    """Find a host's address, asking over a UDP wire whose deadline holds for all queries together.

    Raises EndedError: `resolve-failed`, or `timeout` when the deadline passed.
    """
    if resolver.nameserver is None:
        raise EndedError("resolve-failed", f"{host}: this node has no nameserver")
    try:
        yield from wire.connect((resolver.nameserver, resolver.port))
        names = resolver.candidates(host)
        for candidate in names:
            name: str | None = candidate
            for _ in range(ALIASES):
                if name is None:
                    break
                said = yield from _ask(wire, name)
                if said.addresses:
                    return said.addresses[0]
                name = said.alias
    except ResolveError as error:
        raise EndedError("resolve-failed", f"{error}, from {resolver.nameserver}") from None
    except EndedError as ended:
        if ended.status == "timeout":
            raise
        raise EndedError(
            "resolve-failed", f"{host}: {resolver.nameserver} is {ended.status}: {ended}"
        ) from None
    raise EndedError("resolve-failed", f"no address, says {resolver.nameserver}, for {', '.join(names)}")


def _ask(wire: Wire, name: str) -> Steps[Reply]:
    number = randrange(65536)  # noqa: S311 - tells late answers apart; nobody forges them in a lab
    packet = query(number, name)
    for _ in range(ATTEMPTS):
        yield from wire.send(packet)
        until = time.monotonic() + INTERVAL
        while (yield from wire.wait(select.EPOLLIN, until)):
            said = reply(number, name, (yield from wire.receive()))
            if said is not None:
                return said
    raise ResolveError(f"no answer for {name} to {ATTEMPTS} queries")


def query(number: int, name: str) -> bytes:
    """Return a recursive query for the name's A records (RFC 1035 section 4.1).

    Raises ResolveError when the name cannot be written.
    """
    question = b""
    for label in name.split("."):
        written = label.encode("ascii", "replace")
        if not 1 <= len(written) <= 63 or not label.isascii():
            raise ResolveError(f"{name!r} is no host name")
        question += bytes([len(written)]) + written
    if len(question) > 254:
        raise ResolveError(f"{name!r} is longer than a host name can be")
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack("!2H", _A, _IN)


def reply(number: int, name: str, packet: bytes) -> Reply | None:
    """Read an answer to that query; None when it answers something else.

    Raises ResolveError when the server failed or the answer was cut short.
    """
    try:
        return _reply(number, name.lower(), packet)
    except (IndexError, OSError, struct.error):
        raise ResolveError(f"a malformed answer for {name}") from None


def _reply(number: int, name: str, packet: bytes) -> Reply | None:
    got, flags, questions, answers = struct.unpack_from("!4H", packet)
    if got != number or not flags & 0x8000 or questions != 1:
        return None
    asked, at = _name(packet, 12)
    if asked != name or struct.unpack_from("!2H", packet, at) != (_A, _IN):
        return None
    if flags & 0x0200:
        raise ResolveError(f"the answer for {name} was cut short (TC)")
    code = flags & 15
    if code not in (0, 3):
        raise ResolveError(f"{_CODES.get(code, f'response code {code}')} for {name}")
    addresses, aliases = _records(packet, at + 4, answers)
    end = name
    for _ in range(ALIASES):
        if end in addresses or end not in aliases:
            break
        end = aliases[end]
    if end in addresses:
        return Reply(addresses=tuple(addresses[end]))
    # With NXDOMAIN it is the end of the chain that does not exist (RFC 6604): nothing more to ask.
    return Reply(alias=end if end != name and code == 0 else None)


def _records(packet: bytes, at: int, count: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    addresses: dict[str, list[str]] = {}
    aliases: dict[str, str] = {}
    for _ in range(count):
        owner, at = _name(packet, at)
        kind, class_, _, length = struct.unpack_from("!HHIH", packet, at)
        at += 10
        if class_ == _IN and kind == _A and length == 4:
            addresses.setdefault(owner, []).append(socket.inet_ntoa(packet[at : at + 4]))
        elif class_ == _IN and kind == _CNAME:
            aliases[owner] = _name(packet, at)[0]
        at += length
    return addresses, aliases


def _name(packet: bytes, at: int) -> tuple[str, int]:
    labels = []
    after = None
    for _ in range(128):
        length = packet[at]
        if length >= 0xC0:
            if after is None:
                after = at + 2
            at = struct.unpack_from("!H", packet, at)[0] & 0x3FFF
        elif length:
            labels.append(packet[at + 1 : at + 1 + length].decode("latin-1").lower())
            at += 1 + length
        else:
            return ".".join(labels), at + 1 if after is None else after
    raise IndexError
