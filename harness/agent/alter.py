"""A change, done to the lab that runs (in the lab process)."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import netlink, ready
from harness.agent.build import Built, route_message
from harness.agent.change import Change, Kept
from harness.agent.layout import Start
from harness.agent.readiness import Failed, Running, until_ready

if TYPE_CHECKING:
    from harness.agent.lab_process import Lab

_END_SECONDS = 5.0
_LONGEST_HANDSHAKE = 0.5
"""Seconds; on a quiet machine a handshake takes 0.01. Connections that are open for longer are past it."""
_OPEN = ("01", "02", "03")
"""ESTABLISHED, SYN_SENT, SYN_RECV (Linux, include/net/tcp_states.h)."""


def alter(lab: Lab, change: Change) -> None:
    """Turn the lab into what the change's payload says.

    Raises Failed when a program does not end or does not get ready, NftError or NetlinkError when the kernel
    refuses a part.
    """
    from harness.agent.lab_process import write_file  # noqa: PLC0415 - it imports us

    network = lab.network
    if network is None:
        raise Failed("the lab does not stand")
    for key in change.stops:
        end_program(lab, key)
    for name in change.gone:
        lab.remove(name)
    for path in change.files_gone:
        Path(path).unlink(missing_ok=True)
    for file in change.files:
        write_file(file)
    lab.payload = change.payload
    lab.write_hosts()
    network.add_bridges(change.payload.layout.bridges)
    made = network.add(change.new)
    lab.record(made)
    for kept in change.kept:
        _keep(lab, kept)
    started = [lab.start(start) for start in sorted(change.starts, key=lambda start: not start.first)]
    until_ready(started, lab.spaces, lab.recorder, lab.payload.start_seconds)
    until_ready(_applying(lab, change.applying), lab.spaces, lab.recorder, lab.payload.start_seconds)
    until_ready(_learning(lab, change.applying), lab.spaces, lab.recorder, lab.payload.start_seconds)
    if change.lets_pass:
        _let_pass(lab, {file.node for file in change.files if file.live})


def _applying(lab: Lab, changed: Iterable[Start]) -> Iterator[Running]:
    """Yield programs as ready only when their live files are in force; one that has ended applies nothing."""
    for start in changed:
        key = (start.space, start.name)
        running = lab.programs.get(key)
        if running is not None and running.child.code is None:
            lab.programs[key] = replace(running, start=start)
            wanted = replace(start, ready_by=start.applied_by, ready_value=start.applied_value)
            yield replace(running, start=wanted)


def _learning(lab: Lab, changed: Iterable[Start]) -> Iterator[Running]:
    """Yield programs as ready only when they have learned the routes that they are to have now."""
    for start in changed:
        running = lab.programs.get((start.space, start.name))
        if running is not None and running.child.code is None and start.ready_by == "routes":
            yield running


def _let_pass(lab: Lab, nodes: Collection[str]) -> None:
    """Wait until connections that began with files that were replaced are over, or as old as any handshake gets.

    One that has only begun may still show, and meet, what the next change takes away.
    """
    before = {node: _connections(lab, node) for node in nodes}
    with suppress(ready.NotInTime):
        ready.until(
            "connections are over",
            lambda: not any(before[node] & _connections(lab, node) for node in nodes),
            seconds=_LONGEST_HANDSHAKE,
            every=0.01,
        )


def _connections(lab: Lab, node: str) -> set[str]:
    """Return the TCP connections of a node that are open or opening, both addresses of each (proc(5), net/tcp)."""
    pids = [
        running.child.pid
        for (space, _), running in lab.programs.items()
        if space == node and running.child.code is None
    ]
    if not pids:
        return set()
    with suppress(OSError):
        rows = Path(f"/proc/{pids[0]}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        return {" ".join(fields[1:3]) for fields in map(str.split, rows) if fields[3] in _OPEN}
    return set()


def end_program(lab: Lab, key: tuple[str, str]) -> None:
    """End a program on purpose: it is not missed then; raises Failed when it does not end."""
    running = lab.programs.pop(key)
    if running.child.code is None:
        with suppress(ProcessLookupError):
            os.killpg(running.child.pid, signal.SIGKILL)
        if not running.child.gone.wait(_END_SECONDS):
            raise Failed(f"{key[0]}: {key[1]} does not end")


def _keep(lab: Lab, kept: Kept) -> None:
    """Change a space in place; routes over an interface that is gone went with it."""
    built = lab.spaces[kept.space.name]
    for route in kept.routes_gone:
        if route.device is None or route.device in built.indexes:
            with suppress(netlink.NetlinkError):
                built.route.send(
                    [netlink.route_del(route.destination, gateway=route.gateway, table=route.table)]
                )
    built.route.send(
        [netlink.neighbour(built.indexes[one.device], one.address, one.mac) for one in kept.neighbours_new]
        + [route_message(built, route) for route in kept.routes_new]
    )
    if kept.rules is not None:
        built.nft.run("flush ruleset\n" + kept.rules)
    built.space = kept.space


def set_link(built: Built, interface: str, *, up: bool) -> None:
    """Take an interface down, or up again with the routes and neighbours that went with it."""
    index = built.indexes[interface]
    built.route.send([netlink.link_set(index, up=up)])
    if up:
        built.route.send(
            [
                netlink.neighbour(built.indexes[one.device], one.address, one.mac)
                for one in built.space.neighbours
            ]
            + [route_message(built, route, again=True) for route in built.space.routes]
        )
