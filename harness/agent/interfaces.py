"""Names and hardware addresses of interfaces: each node's own, whatever other nodes come and go."""

from __future__ import annotations

from harness.pod_link import cali, digest

__all__ = ["cali", "digest", "mac"]


def mac(name: str, port: int, side: int) -> str:
    """Return the MAC of one side (0: the node's, 1: the other) of a node's port, 0 to 127."""
    digits = digest(name)
    return ":".join(["02", f"{port << 1 | side:02x}", *(digits[at : at + 2] for at in range(0, 8, 2))])
