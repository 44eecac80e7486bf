"""What each request of the control protocol does; the only way in to the running lab."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.agent import syscalls as sys_
from harness.agent.alter import alter, end_program, set_link
from harness.agent.change import Change
from harness.agent.commands import Commands, Wrong
from harness.agent.counted import counters
from harness.agent.key_log import lines_of
from harness.agent.pod import hosts_of
from harness.agent.readiness import Failed, until_ready
from harness.programs import bird_control
from harness.programs.nft import NftError
from harness.programs.probe import Engine, Resolver, read_probe
from harness.programs.tap import send_nonce

if TYPE_CHECKING:
    from harness.agent.lab_process import Lab


class Operations:
    """What one client may ask for, the processes it started, and the window it holds."""

    def __init__(self, lab: Lab, window: threading.Lock) -> None:
        self._lab = lab
        self._window = window
        self._commands = Commands(lab)
        self._holds_window = False
        self._holds_lab = False
        self.table: Mapping[str, Callable[..., Any]] = {
            "hello": self._hello,
            "exec": self._commands.start,
            "run": self._commands.run,
            "wait": self._commands.wait,
            "signal": self._commands.signal,
            "signal_tagged": self._commands.signal_tagged,
            "hold": self._hold,
            "open_window": self._open_window,
            "close_window": self._close_window,
            "mark": self._mark,
            "collect": self._collect,
            "secrets": self._secrets,
            "wait_for": self._wait_for,
            "barrier": self._barrier,
            "blind": self._blind,
            "probe": self._probe,
            "counters": self._counters,
            "network": self._network,
            "routing": self._routing,
            "programs": self._programs,
            "kill_program": self._kill_program,
            "state": self._state,
            "change": self._change,
            "end_program": self._end_program,
            "start_program": self._start_program,
            "set_link": self._set_link,
            "stop": self._stop,
        }

    def end(self) -> None:
        """Give up what the client held: its processes, its window, and the lab itself when it held that."""
        if self._holds_lab:
            self._lab.stop.set()
        self._commands.end()
        self._close_window()

    def _hello(self) -> dict[str, Any]:
        payload = self._lab.payload
        return {
            "version": __version__,
            "lab": payload.lab,
            "source": list(payload.source),
            "nodes": [space.name for space in payload.layout.spaces],
            "programs": [f"{start.space} {start.name}" for start in payload.starts],
            "phases": self._lab.phases,
        }

    def _hold(self) -> None:
        """Have the lab end with this connection."""
        self._holds_lab = True
        self._lab.held.set()

    def _open_window(self, seconds: float) -> bool:
        if not self._holds_window:
            self._holds_window = self._window.acquire(timeout=seconds)
        return self._holds_window

    def _close_window(self) -> None:
        if self._holds_window:
            self._holds_window = False
            self._window.release()

    def _mark(self) -> dict[str, Any]:
        return {"time": time.time_ns(), "ends": self._lab.recorder.mark()}

    def _collect(self, mark: dict[str, dict[str, int]], kinds: list[str]) -> tuple[None, list[int]]:
        recorder = self._lab.recorder
        found = {
            "recorded": recorder.since(mark, kinds),
            "lost": recorder.lost(mark),
            "ended": self._lab.ended(),
            "interfaces": self._lab.taps(),
        }
        return _in_memory("collected", pickle.dumps(found))

    def _secrets(self) -> tuple[None, list[int]]:
        return _in_memory("secrets", b"".join(lines_of(self._lab.payload.key_logs.values())))

    def _wait_for(self, kind: str, mark: dict[str, dict[str, int]], seconds: float) -> bool:
        return self._lab.recorder.wait_for(kind, mark, seconds)

    def _barrier(self, seconds: float) -> dict[str, list[str]]:
        """Send a nonce out of every tapped interface and wait until every tap on its way recorded it."""
        recorder = self._lab.recorder
        mark = recorder.mark()
        wanted: dict[str, set[bytes]] = {}
        names: dict[bytes, str] = {}
        layout = self._lab.payload.layout
        for name, built in self._lab.spaces.items():
            if not built.space.tapped:
                continue
            for interface, index in built.indexes.items():
                if interface == "lo":
                    continue
                token = os.urandom(16)
                try:
                    send_nonce(built.raw, index, token)
                except OSError as error:
                    if error.errno == errno.ENETDOWN:  # a step took the link down: nothing passes it
                        continue
                    raise
                names[token] = layout.taps.get((name, interface), f"{name}.{interface}")
                wanted.setdefault(name, set()).add(token)
        missing = recorder.wait_for_tokens(wanted, mark, seconds)
        return {"blind": sorted({names[token] for tokens in missing.values() for token in tokens})}

    def _blind(self, node: str) -> None:
        self._lab.recorder.blind(node)

    def _probe(self, probes: list[dict[str, Any]], in_flight: int) -> tuple[None, list[int]]:
        engine = Engine(self._open_socket, self._resolver, self._lab.payload.key_logs.get(""))
        outcomes = engine.run([read_probe(fields) for fields in probes], in_flight)
        return _in_memory("outcomes", pickle.dumps(outcomes))

    def _open_socket(self, node: str, family: int, kind: int, protocol: int) -> socket.socket:
        opened: socket.socket = self._in_net(
            self._lab.spaces[node].place.net, lambda: socket.socket(family, kind, protocol)
        )
        return opened

    def _in_net(self, net: int | None, function: Callable[[], Any]) -> Any:
        """Run a function in a network namespace; each connection has a thread of its own, so it may move."""
        if net is None:
            return function()
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            sys_.setns(net, sys_.CLONE_NEWNET)
            return function()
        finally:
            sys_.setns(home, sys_.CLONE_NEWNET)
            os.close(home)

    def _resolver(self, node: str) -> Resolver:
        space = self._lab.spaces[node].space
        hosts = hosts_of(space) if space.pod else self._lab.payload.layout.hosts
        return Resolver.parse(dict(space.etc).get("resolv.conf", ""), hosts)

    def _counters(self) -> dict[str, dict[str, list[int]]]:
        return counters(self._lab.spaces, self._in_net)

    def _network(self, node: str) -> dict[str, Any]:
        built = self._lab.spaces[node]
        return {"routes": [vars_of(route) for route in built.route.routes()], "interfaces": built.indexes}

    def _routing(self, node: str, control: str) -> tuple[None, list[int]]:
        answer, protocols, silence = [], [], ""
        try:
            answer = bird_control.ask(control, "show route all") if control else []
            protocols = bird_control.ask(control, "show protocols") if control else []
        except bird_control.BirdError as error:
            silence = str(error)
        found = self._lab.spaces[node].route.routes(), answer, protocols, silence
        return _in_memory("routing", pickle.dumps(found))

    def _programs(self) -> list[dict[str, Any]]:
        return [
            {
                "node": node,
                "name": name,
                "pid": one.child.pid,
                "code": one.child.code,
                "argv": list(one.start.argv),
            }
            for (node, name), one in self._lab.programs.items()
        ]

    def _kill_program(self, node: str, name: str, number: int) -> None:
        os.kill(self._lab.programs[node, name].child.pid, number)

    def _state(self) -> tuple[None, list[int]]:
        return _in_memory("state", self._lab.payload.state)

    def _change(self, fds: list[int]) -> None:
        with os.fdopen(os.dup(fds[0]), "rb") as file:
            file.seek(0)
            change: Change = pickle.load(file)  # noqa: S301 - from our owner, checked by SO_PEERCRED
        try:
            alter(self._lab, change)
        except (Failed, NftError) as error:
            raise Wrong(f"the lab could not be changed: {error}") from error

    def _end_program(self, node: str, name: str) -> None:
        end_program(self._lab, (node, name))

    def _start_program(self, node: str, name: str) -> None:
        start = next(start for start in self._lab.payload.starts if (start.space, start.name) == (node, name))
        try:
            started = self._lab.start(start)
            until_ready([started], self._lab.spaces, self._lab.recorder, self._lab.payload.start_seconds)
        except Failed as error:
            raise Wrong(str(error)) from error

    def _set_link(self, tap: str, up: bool) -> None:  # noqa: FBT001 - the fields of one request
        taps = self._lab.payload.layout.taps
        node, interface = next(place for place, name in taps.items() if name == tap)
        set_link(self._lab.spaces[node], interface, up=up)

    def _stop(self) -> None:
        self._lab.stop.set()


def _in_memory(name: str, content: bytes) -> tuple[None, list[int]]:
    """Return an answer whose result is a memory file."""
    memory = os.memfd_create(name)
    with os.fdopen(os.dup(memory), "wb") as file:
        file.write(content)
    return None, [memory]


def vars_of(value: object) -> dict[str, Any]:
    """Return a frozen dataclass's fields as a mapping."""
    return {name: getattr(value, name) for name in getattr(value, "__dataclass_fields__", {})}
