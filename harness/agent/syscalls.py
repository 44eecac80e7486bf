"""The system calls that Python 3.11 lacks, each raising OSError by name (unshare(2), setns(2), mount(2), ...)."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_SYS_CLOSE_RANGE = 436
_CLOSE_RANGE_CLOEXEC = 4
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture (asm-generic)

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAP_SYS_ADMIN = 21
_SO_ATTACH_FILTER = 26
_BPF_RETURN = 0x06
_CAPABILITY_VERSION_3 = 0x20080522

_INT = struct.Struct("i")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own."""
    _checked("unshare", _libc.unshare(flags))


def keep_descriptors_to_itself() -> None:
    """Mark every descriptor but the three streams to be closed in programs that start (close_range(2))."""
    result = _libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(3), ctypes.c_uint(2**32 - 1), _CLOSE_RANGE_CLOEXEC)
    _checked("close_range", result)


def close_all_but(fd: int) -> None:
    """Close every descriptor but the three streams and one other (close_range(2))."""
    for first, last in ((3, fd - 1), (fd + 1, 2**32 - 1)):
        if first <= last:
            result = _libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)
            _checked("close_range", result)


def receive(link: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive at most `size` bytes and `most` descriptors, which programs that start at this moment do not get.

    socket.recv_fds ignores its flags (Python 3.11 to 3.13).
    """
    room = socket.CMSG_LEN(most * _INT.size)
    data, ancillary, _, _ = link.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    found = [part for level, kind, part in ancillary if (level, kind) == rights]
    return data, [fd for part in found for (fd,) in _INT.iter_unpack(part)]


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace behind a descriptor."""
    _checked("setns", _libc.setns(fd, kind))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """Attach a file system, bind a folder, or change propagation."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _checked(f"mount {kind or 'bind'} on {target}", result)


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Show `source` at `target` too."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))


def restrict(target: str, attributes: int, *, recursive: bool = False) -> None:
    """Give a mount attributes (read-only, no set-uid) on a mount, or on its whole tree, in one call."""

    class _Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    wanted = _Attributes(attributes, 0, 0, 0)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        target.encode(),
        AT_RECURSIVE if recursive else 0,
        ctypes.byref(wanted),
        ctypes.sizeof(wanted),
    )
    _checked(f"mount_setattr {target}", result)


def unmount(target: str, flags: int = 0) -> None:
    """Take a mount away."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), flags))


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root and put the former root at `old`."""
    _checked("pivot_root", _libc.pivot_root(new.encode(), old.encode()))


def prctl(option: int, *arguments: int) -> int:
    """Operate on the calling thread (or process, as the option says)."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(f"prctl {option}", _libc.prctl(option, *padded))


def deafen(fd: int) -> None:
    """Let a socket receive nothing more: a packet filter that takes no byte of any packet (socket(7))."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RETURN, 0, 0, 0))
    described = struct.pack("HP", 1, ctypes.addressof(program))
    with socket.socket(fileno=os.dup(fd)) as same:
        same.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability sets (bit masks, capabilities(7))."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    _checked("capset", _libc.capset(header, data))


def permitted_capabilities() -> int:
    """Return the calling thread's permitted set as a bit mask."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _checked("capget", _libc.capget(header, data))
    return int(data[1]) | int(data[4]) << 32


def pass_capabilities_on() -> None:
    """Let every program that this thread starts keep its capabilities, whatever its user id (ambient set)."""
    mask = permitted_capabilities()
    set_capabilities(mask, mask, mask)
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def give_up_capabilities() -> None:
    """Have no capability in this thread, and in no program that it starts, for good.

    Unlike `keep_capabilities_to_itself` this needs no capability (CAP_SETPCAP) for it.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    prctl(PR_SET_NO_NEW_PRIVS, 1)  # or the next program of user 0 would get all that the bounding set has
    set_capabilities(0, 0, 0)


def keep_capabilities_to_itself() -> None:
    """Let programs that this thread starts have no capability and gain none, while the thread keeps its own.

    Credentials belong to a thread; an empty bounding set makes even user 0 start without any.
    """
    mask = permitted_capabilities()
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            prctl(PR_CAPBSET_DROP, number)
    set_capabilities(mask, mask, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
