"""Requests about the packets that pass an interface: how long they get, and who gets copies (tc(8)).

u32 is the classifier that the most kernels have: some are built without matchall and flower.

Source: linux/rtnetlink.h, linux/if_link.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h.
"""

from __future__ import annotations

import socket
import struct

from harness.netlink import packing
from harness.netlink.requests import Message

_NEWLINK, _NEWQDISC, _NEWTFILTER = 16, 36, 44
_MAKE = 0x1 | 0x400 | 0x200  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_EXCL
_CLSACT, _CLSACT_HANDLE, _CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_GO_ON, _EGRESS_MIRROR, _ETH_P_ALL, _TERMINAL = -1, 2, 3, 1
"""TC_ACT_UNSPEC: the next filter is asked too; TCA_EGRESS_MIRROR; TC_U32_TERMINAL."""

_TC = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""


def as_on_wire(index: int) -> Message:
    """Let no packet of an interface be longer than its MTU, either way.

    The kernel cuts segments itself instead of leaving it to hardware that is none (IFLA_GSO_MAX_SEGS), and puts none
    together on arrival (IFLA_GRO_MAX_SIZE).
    """
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + packing.u32(40, 1) + packing.u32(58, 1)
    return Message(_NEWLINK, 0x1, body, f"let interface {index} be as a wire")


def clsact(index: int) -> Message:
    """Give an interface the places where packets are looked at as they come and go (tc-bpf(8), clsact)."""
    body = _TC.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + packing.string(1, "clsact")
    return Message(_NEWQDISC, _MAKE, body, f"make a clsact of interface {index}")


def mirror(index: int, to: int, *, incoming: bool, priority: int = 1) -> Message:
    """Send a copy of every packet of an interface out of interface `to`, of one direction (tc-u32, tc-mirred).

    The interface needs a `clsact`; filters of other priorities look at the packet too.
    """
    # act_mirred: struct tc_mirred {index, capab, action, refcnt, bindcnt, eaction, ifindex}
    parameters = struct.pack("=IIiiiiI", 0, 0, _GO_ON, 0, 0, _EGRESS_MIRROR, to)
    action = packing.string(1, "mirred") + packing.attribute(2, packing.attribute(2, parameters))
    # cls_u32: struct tc_u32_sel with one struct tc_u32_key whose mask is 0, which every packet has
    every = struct.pack("=BBBxHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
    options = packing.attribute(5, every) + packing.attribute(7, packing.attribute(1, action))
    info = priority << 16 | socket.htons(_ETH_P_ALL)
    parent = _CLSACT_INGRESS if incoming else _CLSACT_EGRESS
    body = _TC.pack(0, index, 0, parent, info) + packing.string(1, "u32") + packing.attribute(2, options)
    words = "comes in at" if incoming else "goes out of"
    return Message(_NEWTFILTER, _MAKE, body, f"mirror what {words} interface {index} to {to}")
