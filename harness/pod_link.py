"""What the host's end of a pod's own interface is called on its node: where Calico's Felix enforces policy."""

from __future__ import annotations

import hashlib


def digest(name: str) -> str:
    """Return hexadecimal digits that are a node's own (Calico's way too)."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


def cali(pod: str) -> str:
    """Return what the interface of a pod (`namespace/name`) is called on its node."""
    return f"cali{digest(pod)[:11]}"
