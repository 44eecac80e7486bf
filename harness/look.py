"""Looking around in a plan and in a running lab, with the habits of kubectl: get, exec, shell, logs, down."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import click

from harness import shipped
from harness.commands import only_lab
from harness.errors import InputError
from harness.lab import SERVING, load_lab
from harness.lookup import nearest
from harness.overlay_checks import tunnel_taps
from harness.plan import Node, Plan, endpoints, make_plan
from harness.running import Driver

_FOLLOW_SECONDS = 3600.0
_WAIT_SECONDS = 0.1
_RULES = "rules"
"""What `logs -c` calls the log entries of a node's packet filter, beside the programs' names."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as kubectl does: no lines, three spaces apart."""
    widths = [max(len(str(row[column])) for row in [headings, *rows]) for column in range(len(headings))]
    for row in [headings, *rows]:
        click.echo(
            "   ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def show_plan(lab_name: str, driver: Driver) -> None:
    """Print what a lab file comes to; nothing is started."""
    made = make_plan(load_lab(shipped.find_lab(lab_name)))
    bindings = driver.binding(made)
    rows = []
    for node in made.nodes:
        addresses = ", ".join(map(str, bindings.of_both_families(node)))
        rows.append((node.name, "+".join(node.kinds), node.host or "", addresses))
    table(("NODE", "KIND", "ON", "ADDRESSES"), rows)
    click.echo()
    services = [(name, bindings.cluster_ips[name], service.port) for name, service in made.services.items()]
    table(("SERVICE", "CLUSTER-IP", "PORT"), [tuple(map(str, row)) for row in services])


def show(driver: Driver, lab_name: str | None, what: str, namespace: str | None) -> None:
    """Print one kind of thing that the lab has."""
    lab = driver.attach(only_lab(driver, lab_name))
    try:
        headings, rows = _LISTS[what](lab)
    finally:
        lab.close()
    if namespace is not None:
        rows = [row for row in rows if row[0] == namespace]
    table(headings, rows)


def _pods(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    programs: dict[str, list[Any]] = {}
    for program in lab.programs():
        programs.setdefault(program["node"], []).append(program["code"])
    rows: list[Sequence[str]] = []
    for node in lab.plan.pods:
        codes = programs.get(node.name, [])
        running = sum(code is None for code in codes)
        namespace, _, name = node.name.partition("/")
        status = "Running" if running == len(codes) else "Error"
        rows.append(
            (namespace, name, f"{running}/{len(codes)}", status, str(lab.bindings.address(node)), node.host)
        )
    return ("NAMESPACE", "NAME", "READY", "STATUS", "IP", "NODE"), rows


def _services(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    rows: list[Sequence[str]] = []
    for full, service in lab.plan.services.items():
        namespace, _, name = full.partition("/")
        found = ",".join(f"{ip}:{port}" for _, ip, port in endpoints(lab.plan, lab.bindings, service))
        labels = ",".join(f"{key}={value}" for key, value in service.labels.items()) or "<none>"
        rows.append(
            (
                namespace,
                name,
                "ClusterIP",
                str(lab.bindings.cluster_ips[full]),
                f"{service.port}",
                found,
                labels,
            )
        )
    return ("NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "PORT", "ENDPOINTS", "LABELS"), rows


def _outside(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    return _nodes_at(lab, "outside")


def _cluster_nodes(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    return _nodes_at(lab, "cluster-node")


def _nodes_at(lab: Any, placement: str) -> tuple[Sequence[str], list[Sequence[str]]]:
    rows: list[Sequence[str]] = [
        (
            node.name,
            ",".join(node.kinds),
            ",".join(f"{n}:{lab.bindings.addresses[node.name, n]}" for n, _ in node.places),
        )
        for node in lab.plan.nodes
        if node.placement == placement
    ]
    return ("NAME", "KIND", "ADDRESSES"), rows


def _taps(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    rows: list[Sequence[str]] = []
    for node in lab.plan.nodes:
        more = (*(one.name for one in node.shims), *tunnel_taps(node.name, lab.plan.lab))
        taps = [f"{node.name}.{name}" for name in (*dict(node.places), *more)]
        if node.pod is not None:
            served = node.pod.injected and node.pod.spec.runs in SERVING
            second = node.name in lab.bindings.second
            taps = [f"{node.name}.{name}" for name in ("eth0", *second * ("net1",), *served * ("lo",))]
        elif node.placement == "pod":  # the cluster's DNS
            taps = [f"{node.name}.eth0"]
        rows += [(tap, node.name) for tap in taps]
    return ("TAP", "NODE"), rows


def _programs(lab: Any) -> tuple[Sequence[str], list[Sequence[str]]]:
    rows: list[Sequence[str]] = []
    for program in lab.programs():
        state = "Running" if program["code"] is None else f"Ended {program['code']}"
        rows.append(
            (program["node"], program["name"], state, str(program["pid"]), " ".join(program["argv"])[:80])
        )
    return ("NODE", "NAME", "STATUS", "PID", "COMMAND"), rows


_LISTS = {
    "pods": _pods,
    "services": _services,
    "outside": _outside,
    "nodes": _cluster_nodes,
    "taps": _taps,
    "programs": _programs,
}


def find_node(plan: Plan, name: str, namespace: str | None) -> Node:
    """Return a pod (`-n NS NAME` or `NS/NAME`) or another node; raises InputError with the nearest name."""
    full = f"{namespace}/{name}" if namespace else name
    known = [node.name for node in plan.nodes]
    if full not in known:
        raise InputError(f"no pod or node {full!r}; {nearest(full, known)}")
    return plan.node(full)


def execute(  # noqa: PLR0913 - the options of one command
    node: str,
    command: Sequence[str],
    namespace: str | None,
    container: str | None,  # noqa: ARG001 - kubectl's habit; the network is the pod's in either
    *,
    stdin: bool,
    tty: bool,
    lab_name: str | None,
    driver: Any,
) -> int:
    """Run a command in a node on our own streams; returns its exit status, 128 + N for signal N."""
    lab = driver.attach(only_lab(driver, lab_name))
    try:
        name = find_node(lab.plan, node, namespace).name
        if tty:
            child, master = lab.interactive(name, list(command), None, _size())
        else:
            nothing = os.open(os.devnull, os.O_RDONLY)
            child, master = lab.interactive(name, list(command), (0 if stdin else nothing, 1, 2)), None
            child = child[0]
        if child is None:
            click.echo(f"egresslab: {command[0]}: not found in {name}", err=True)
            return 127
        if master is not None:
            signal.signal(signal.SIGTERM, lambda number, _: lab.send_signal(child, number))
            _relay_terminal(master)
        try:
            code = _wait(lab, child)
        except KeyboardInterrupt:
            return 130
        return code if code >= 0 else 128 - code
    finally:
        lab.close()


def _wait(lab: Any, child: int) -> int:
    """Return a command's exit status, passing on to it what we are sent between two requests to the lab."""
    sent: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: sent.append(number))
    while True:
        code: int | None = lab.wait(child, _WAIT_SECONDS)
        if code is not None:
            return code
        while sent:
            lab.send_signal(child, sent.pop())


def _relay_terminal(master: int) -> None:
    """Copy between our terminal and the command's until the command's side closes."""
    import termios  # noqa: PLC0415 - only where there is a terminal
    import tty as modes  # noqa: PLC0415

    ours = sys.stdin.fileno()
    saved = termios.tcgetattr(ours) if os.isatty(ours) else None
    if saved is not None:
        modes.setraw(ours)
        signal.signal(signal.SIGWINCH, lambda *_: _copy_size(master))
    watched = [master, ours]
    try:
        while True:
            for fd in select.select(watched, [], [])[0]:
                try:
                    data = os.read(fd, 1 << 16)
                except OSError:  # EIO: the last process on the terminal has ended
                    return
                if not data and fd == ours:
                    watched.remove(ours)
                    os.write(master, b"\x04")
                else:
                    os.write(1 if fd == master else master, data)
    finally:
        if saved is not None:
            termios.tcsetattr(ours, termios.TCSADRAIN, saved)
        os.close(master)


def _size() -> tuple[int, int]:
    """Return the rows and columns of our terminal; where there is none, those that a terminal always had."""
    import termios  # noqa: PLC0415 - only where there is a terminal

    try:
        return termios.tcgetwinsize(sys.stdin.fileno())
    except termios.error:
        return 24, 80


def _copy_size(master: int) -> None:
    import termios  # noqa: PLC0415 - only where there is a terminal

    with contextlib.suppress(termios.error):
        termios.tcsetwinsize(master, _size())


def print_logs(  # noqa: PLR0913 - the options of one command
    node: str,
    namespace: str | None,
    container: str | None,
    lab_name: str | None,
    driver: Any,
    *,
    follow: bool,
) -> None:
    """Print the recorded lines of a node's programs, and with -f those that come."""
    lab = driver.attach(only_lab(driver, lab_name))
    try:
        name = find_node(lab.plan, node, namespace).name
        mark = None
        for line in _lines(lab, name, container, mark, follow=follow):
            click.echo(line)
    finally:
        lab.close()


def _lines(lab: Any, node: str, container: str | None, mark: Any, *, follow: bool) -> Iterator[str]:
    from harness.running import Mark  # noqa: PLC0415 - for its one use

    mark = Mark(0, {})
    deadline = time.monotonic() + _FOLLOW_SECONDS
    while True:
        now = lab.mark()
        found = lab.collect(mark, ("lines", "nflog"))
        merged = [
            (when, line)
            for program, lines in found.lines.items()
            if program.rpartition(" ")[0] == node and container in (None, program.rpartition(" ")[2])
            for when, line in lines
        ]
        if container in (None, _RULES):
            merged += ((entry.time, _rule_line(entry)) for entry in found.nflog.get(node, ()))
        # Lines that were read at once have one time, and stay as they were printed.
        yield from (line for _, line in sorted(merged, key=itemgetter(0)))
        if not follow or time.monotonic() > deadline:
            return
        mark = now
        lab.wait_for("lines", now, 1.0)


def _rule_line(entry: Any) -> str:
    """Write a packet filter's entry as one line: when (UTC), what it did, by which rule, to which flow."""
    when = dt.datetime.fromtimestamp(entry.time / 1e9, dt.UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S.%f} {entry.prefix} {entry.flow or ''}".rstrip()


def take_down(driver: Driver, labs: Sequence[str], *, every: bool) -> None:
    """Take labs down and say which."""
    names = list(driver.running()) if every else list(labs) or [only_lab(driver, None)]
    for name in names:
        driver.down(name)
        click.echo(f"lab {name} is down")
