"""A user and network namespace for one test: the test runs in a child process that owns both."""

from __future__ import annotations

import ctypes
import functools
import os
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def alone(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in namespaces of its own, with every capability and nothing but `lo`, down."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # the child touches nothing that a thread of the parent may have locked
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            said = b""
            try:
                os.close(reading)
                _enter()
                test(*args, **kwargs)
            except BaseException:  # noqa: BLE001 - whatever the test raised is the parent's to tell
                said = traceback.format_exc().encode()
            finally:
                os.write(writing, said)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        assert not said, "in the namespace:\n" + said.decode()
        assert status == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}"

    return run


def new_network() -> int:
    """Make a further network namespace and return its descriptor; the caller stays where it is."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.unshare(_CLONE_NEWNET))
    there = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    move_to(home)
    os.close(home)
    return there


def move_to(network: int) -> None:
    """Move the calling thread into a network namespace."""
    _checked(_libc.setns(network, _CLONE_NEWNET))


def here() -> int:
    """Return a descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter() -> None:
    user, group = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
