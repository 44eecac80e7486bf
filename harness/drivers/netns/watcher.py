"""The watcher: one small process outside the sandbox, which starts PID 1 of it and outlives it by milliseconds.

    owner (CLI, pytest)  --lease-->  watcher  --parent-death signal-->  PID 1  --PID namespace-->  everything else

Each arrow kills to the right: the kernel does the cleaning up, so SIGKILL at any moment leaves nothing.
The control socket is bound here, before any namespace is made: abstract names belong to a network namespace,
and the owner's tools must find it in the host's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from harness.agent import syscalls as sys_

NAMESPACES = (
    sys_.CLONE_NEWUSER
    | sys_.CLONE_NEWNS
    | sys_.CLONE_NEWPID
    | sys_.CLONE_NEWNET
    | sys_.CLONE_NEWUTS
    | sys_.CLONE_NEWIPC
)
RELEASE = b"R"
_CRASH_BYTES = 64 * 1024
_GRACE_SECONDS = 10.0
"""PID 1 closes a hundred rings at once in 50 ms, a thousand in a second; killed, the kernel closes them one by one."""


def control_name(uid: int, lab: str) -> str:
    """Return the abstract name of a lab's control socket (without the leading NUL)."""
    return f"egresslab/{uid}/{lab}"


def main() -> int:
    """Run with: lab name, owner's user id, crash report; descriptors of the payload, status pipe and lease."""
    lab, owner, report = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    payload, status, lease = (int(word) for word in sys.argv[4:7])
    os.setsid()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.bind("\0" + control_name(owner, lab))
    except OSError:
        _tell(status, error=f"a lab named {lab!r} is already up; `egresslab ls` lists them", kind="taken")
        return 1
    control.listen(64)
    sys_.prctl(sys_.PR_SET_CHILD_SUBREAPER, 1)
    stderr = os.memfd_create("stderr")
    alive, held = os.pipe()  # PID 1 sees this pipe hang up if we died before its death signal was armed
    try:
        child = _start(lab, owner, payload, status, control, stderr, alive, held)
    except OSError as error:
        _tell(status, error=f"namespaces: {error.strerror}", kind="refused")
        return 1
    os.close(alive)
    control.close()
    _print_to(stderr)
    code, asked = _watch(child, lease)
    os.close(held)
    text = os.pread(stderr, _CRASH_BYTES, max(0, os.fstat(stderr).st_size - _CRASH_BYTES)).decode(
        errors="replace"
    )
    if text and not asked:
        with suppress(OSError):
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(
                f"lab {lab} ended by itself with {code}; its last words:\n{text}", encoding="utf-8"
            )
    with suppress(BrokenPipeError):
        _tell(status, ended=code, stderr=text)
    return 0


def _print_to(memory: int) -> None:
    """Print to memory from now on: who reads the owner's output in a pipe waits until nobody can write to it."""
    for stream in (1, 2):
        os.dup2(memory, stream)


def _start(  # noqa: PLR0913 - the descriptors PID 1 is given, each by its own name
    lab: str,
    owner: int,
    payload: int,
    status: int,
    control: socket.socket,
    stderr: int,
    alive: int,
    held: int,
) -> int:
    """Fork into new namespaces and return the process id of the sandbox's PID 1, now a child of ours."""
    to_child, from_child = socket.socketpair()
    middle = os.fork()
    if middle == 0:
        to_child.close()
        os.close(held)
        _middle(from_child, lab, owner, payload, status, control, stderr, alive)
    from_child.close()
    answer = to_child.recv(64).decode()
    if answer == "unshared":
        _map_ids(middle)
        to_child.send(b"mapped")
        answer = to_child.recv(64).decode()
    os.waitpid(middle, 0)
    with suppress(BrokenPipeError):
        to_child.send(b"alone")
    to_child.close()
    word, _, number = answer.partition(" ")
    if word != "started":
        raise OSError(int(number or 0), os.strerror(int(number or 0)))
    return int(number)


def _middle(  # noqa: PLR0913 - as _start
    link: socket.socket,
    lab: str,
    owner: int,
    payload: int,
    status: int,
    control: socket.socket,
    stderr: int,
    alive: int,
) -> None:
    try:
        sys_.prctl(sys_.PR_SET_PDEATHSIG, signal.SIGKILL)
        sys_.unshare(NAMESPACES)
        link.send(b"unshared")
        if link.recv(64) != b"mapped":
            os._exit(1)
        first = os.fork()
        if first == 0:
            # A death signal armed while the middle process is ending would be sent for its end: the kernel
            # closes its descriptors first and looks at its children last. The watcher says when it is reaped.
            if link.recv(64) != b"alone":
                os._exit(1)
            link.close()
            sys_.prctl(sys_.PR_SET_PDEATHSIG, signal.SIGKILL)
            if select.select([alive], [], [], 0)[0]:
                os._exit(1)
            _print_to(stderr)
            from harness.drivers.netns import first_process  # noqa: PLC0415 - PID 1 alone pays for it

            os._exit(first_process.main(lab, owner, payload, status, control))
        link.send(f"started {first}".encode())
    except OSError as error:
        with suppress(OSError):
            link.send(f"failed {error.errno}".encode())
    os._exit(0)


def _map_ids(pid: int) -> None:
    """Map every id as root (only a process outside may do that), else the owner's own."""
    uid, gid = os.geteuid(), os.getegid()
    every = uid == 0
    if not every:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", _own_map("uid") if every else f"{uid} {uid} 1")
    _write(f"/proc/{pid}/gid_map", _own_map("gid") if every else f"{gid} {gid} 1")


def _own_map(kind: str) -> str:
    """Map what our own user namespace has, one to one (inside a container that is not everything)."""
    rows = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines()]
    return "\n".join(f"{inside} {inside} {count}" for inside, _outside, count in rows)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _watch(child: int, lease: int) -> tuple[int, bool]:
    """Wait until PID 1 ends; end it when the owner's lease breaks or we are told to stop.

    Returns how it ended, and whether that was asked for.
    """
    asked = False
    stop, told = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(told, b"x"))
    ended = os.pidfd_open(child)
    waiting = [ended, lease, stop]
    while True:
        ready = select.select(waiting, [], [])[0]
        if ended in ready:
            break
        if lease in ready and os.read(lease, 1) == RELEASE:
            waiting.remove(lease)
            continue
        asked = True
        os.kill(child, signal.SIGTERM)
        select.select([ended], [], [], _GRACE_SECONDS)
        os.kill(child, signal.SIGKILL)
        waiting = [ended]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), asked


def _tell(status: int, **facts: object) -> None:
    os.write(status, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
