"""On what a node listens, as its own kernel says (proc(5), /proc/net/tcp and /proc/net/udp)."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from harness.errors import LostEvidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.running import RunningLab

_SECONDS = 5.0
_LISTEN, _UNCONNECTED = "0A", "07"
"""TCP_LISTEN; and what an unconnected UDP socket shows, TCP_CLOSE (include/net/tcp_states.h)."""


def listening(lab: RunningLab, node: str) -> list[tuple[str, int, IPv4Address]]:
    """Return (`tcp` or `udp`, port, address) of each socket of a node that takes what comes from outside it.

    Raises LostEvidence when the node cannot be asked.
    """
    found = []
    for protocol in ("tcp", "udp"):
        said = lab.run(node, ["cat", f"/proc/net/{protocol}"], seconds=_SECONDS, capable=True)
        if said.code != 0:
            raise LostEvidence(f"{node}: cannot read on what it listens: {said.stderr.strip()}")
        found += [(protocol, port, address) for port, address in parse(said.stdout, protocol)]
    return sorted(found)


def parse(text: str, protocol: str) -> Iterator[tuple[int, IPv4Address]]:
    """Yield (port, address) of the sockets that listen, loopback apart; addresses are hexadecimal, host byte order."""
    wanted = _LISTEN if protocol == "tcp" else _UNCONNECTED
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 4 or words[3] != wanted:
            continue
        host, _, port = words[1].partition(":")
        address = IPv4Address(socket.inet_ntoa(struct.pack("=I", int(host, 16))))
        if not address.is_loopback:
            yield int(port, 16), address
