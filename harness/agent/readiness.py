"""When a program of the lab is ready, seen from outside the program (plan.Ready says what the words mean)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import ready
from harness.agent.build import Built
from harness.agent.children import Child
from harness.agent.layout import Start
from harness.agent.recorder import Recorder
from harness.programs.bird_control import BirdError, ask

_LISTEN = "0A"
_DYNAMIC = ("dynamic_active_secrets", "dynamic_route_configs")
"""What Envoy takes from files that it watches."""
_REREAD = (3, 4)
"""BIRD's codes for done, and for begun (doc/reply_codes)."""


class Failed(Exception):
    """The lab cannot stand; the message says which part and why."""


@dataclass(frozen=True)
class Running:
    """A program that was started; `first_line` is where its own output begins in the record."""

    start: Start
    child: Child
    first_line: int


def until_ready(
    programs: Iterable[Running], spaces: dict[str, Built], recorder: Recorder, seconds: float
) -> None:
    """Wait until all programs are ready; raises Failed, with the program's last words, when one is not in time."""
    waiting = list(programs)

    def all_ready() -> bool:
        for running in list(waiting):
            if running.child.code is not None:
                raise Failed(_died(running, recorder))
            if _is_ready(running, spaces, recorder):
                waiting.remove(running)
        return not waiting

    try:
        ready.until("programs ready", all_ready, seconds=seconds, every=0.01)
    except ready.NotInTime as error:
        start = waiting[0].start
        raise Failed(
            f"{start.space}: {start.name} was not ready ({start.ready_by} {start.ready_value}) "
            f"after {seconds:g} s{_last_words(waiting[0], recorder)}"
        ) from error


def _is_ready(running: Running, spaces: dict[str, Built], recorder: Recorder) -> bool:
    start = running.start
    first, _, rest = start.ready_value.partition(" ")
    match start.ready_by:
        case "listens":
            found = _listens(running.child.pid, int(start.ready_value))
        case "log":
            found = any(start.ready_value in line for line in _lines(running, recorder))
        case "admin":
            found = b" 200 " in _admin(start.ready_value, "/ready")
        case "versions":
            dumped = b"".join(_admin(first, f"/config_dump?resource={resource}") for resource in _DYNAMIC)
            found = all(f'"{version}"'.encode() in dumped for version in rest.split(","))
        case "rereads":
            found = _rereads(start.ready_value)
        case "file":
            found = _holds(first, rest)
        case "routes":
            _wake_bird(first)
            known = {route.dst for route in spaces[start.space].route.routes() if route.gateway}
            found = set(rest.split(",")) <= known
        case _:
            found = True
    return found


def _holds(path: str, words: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8") == words
    return False


def _lines(running: Running, recorder: Recorder) -> list[str]:
    key = f"{running.start.space} {running.start.name}"
    found = recorder.since({"lines": {key: running.first_line}}, ["lines"])["lines"].get(key, [])
    return [line for _, line in found]


def _died(running: Running, recorder: Recorder) -> str:
    code = running.child.code or 0
    how = f"exit status {code}" if code >= 0 else f"signal {-code}"
    return f"{running.start.space}: {running.start.name} ended with {how}{_last_words(running, recorder)}"


def _last_words(running: Running, recorder: Recorder) -> str:
    lines = _lines(running, recorder)
    return "; its last words:\n" + "\n".join(f"    {line}" for line in lines[-8:]) if lines else ""


def _listens(pid: int, port: int) -> bool:
    """Tell whether something listens on a TCP port in a process's network namespace (proc(5), net/tcp)."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _rereads(path: str) -> bool:
    """Tell BIRD to read its file again, which leaves alone what is as before; it does at once, or when it can."""
    with contextlib.suppress(BirdError):
        return ask(path, "configure")[-1][0] in _REREAD
    return False


def _wake_bird(path: str) -> None:
    """Ask BIRD for its status: what it answers does not matter here, that it was woken does (plan.Ready)."""
    with socket.socket(socket.AF_UNIX) as link, contextlib.suppress(OSError):
        link.settimeout(0.2)
        link.connect(path)
        link.sendall(b"show status\n")
        link.recv(4096)


def _admin(path: str, page: str) -> bytes:
    """Return what Envoy's admin socket answers, head and all; nothing while it does not answer."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as link, contextlib.suppress(OSError):
        link.settimeout(0.5)
        link.connect(path)
        link.sendall(f"GET {page} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        while data := link.recv(1 << 16):
            answer += data
    return answer
