"""Settings of one interface that are sysctls too: where /proc/sys is read-only, as in a container, this is the way.

Source: linux/if_link.h (IFLA_AF_SPEC, IFLA_INET_CONF), linux/ip.h (IPV4_DEVCONF_*).
"""

from __future__ import annotations

import struct

from harness.netlink import packing
from harness.netlink.requests import Message

_NEWLINK, _REQUEST = 16, 0x1
_AF_SPEC, _AF_INET, _CONF = 26, 2, 1
_NUMBERS = {"forwarding": 1, "accept_redirects": 4, "send_redirects": 6, "rp_filter": 8}
_LINK = struct.Struct("=BxHiII")


def ipv4_settings(index: int, **values: int) -> Message:
    """Set an interface's `net.ipv4.conf.<interface>.<name>`, by name; raises KeyError for an unknown one."""
    inner = b"".join(packing.u32(_NUMBERS[name], value) for name, value in values.items())
    family = packing.attribute(_AF_INET, packing.attribute(_CONF, inner))
    body = _LINK.pack(0, 0, index, 0, 0) + packing.attribute(_AF_SPEC, family)
    words = " ".join(f"{name}={value}" for name, value in values.items())
    return Message(_NEWLINK, _REQUEST, body, f"set interface {index} {words}")
