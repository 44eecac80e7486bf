"""What names a flow: the 5-tuple, by which every witness of it is joined to the others."""

from __future__ import annotations

from dataclasses import dataclass

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}


@dataclass(frozen=True, slots=True, order=True)
class FiveTuple:
    """Protocol number and both ends; addresses as text, ports as numbers.

    Of ICMP, which has no ports, `sport` is the identifier of an echo (0 for others) and `dport` is type * 256
    + code. Of protocols without ports, and of fragments behind the first, both are 0.
    """

    protocol: int
    src: str
    sport: int
    dst: str
    dport: int

    def inverse(self) -> FiveTuple:
        """Return the other direction; not for ICMP, whose answer has another type."""
        return FiveTuple(self.protocol, self.dst, self.dport, self.src, self.sport)

    def __str__(self) -> str:
        name = _NAMES.get(self.protocol, str(self.protocol))
        return f"{name} {_end(self.src, self.sport)}>{_end(self.dst, self.dport)}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
