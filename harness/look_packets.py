"""`egresslab capture`: packets of a running lab as they pass, at every tap at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click

from harness import bpf, capture, pcapng
from harness.address_names import readable_names
from harness.commands import only_lab
from harness.errors import InputError
from harness.lookup import nearest
from harness.programs.tap import Frame, frames, nonce_of

_WAIT_SECONDS = 10.0


def capture_packets(  # noqa: PLR0913 - the options of one command
    where: Sequence[str],
    taps: Sequence[str],
    file: Path | None,
    count: int | None,
    lab_name: str | None,
    driver: Any,
) -> None:
    """Print a line for each packet, or write pcapng; ends after `count` packets or on Ctrl-C."""
    lab = driver.attach(only_lab(driver, lab_name))
    with ExitStack() as stack:
        stack.callback(lab.close)
        names = sorted(
            {name for found in lab.collect(lab.mark(), ()).interfaces.values() for name in found.values()}
        )
        for tap in taps:
            if tap not in names:
                raise InputError(f"unknown tap {tap!r}; {nearest(tap, names)}")
        wanted = tuple(taps) or tuple(name for name in names if not name.endswith(".lo"))
        matches = _filter(" ".join(where))
        found = _limited(_watch(lab, wanted, matches), count)
        try:
            if file is None:
                for tap, frame in found:
                    click.echo(_line(tap, frame))
            else:
                _write(found, wanted, file, readable_names(lab.plan, lab.bindings))
        except KeyboardInterrupt:
            click.echo("", err=True)


def _filter(text: str) -> Any:
    try:
        return bpf.compiled(text, ethernet=True) if text else None
    except bpf.FilterError as error:
        raise InputError(f"filter {text!r}: {error}") from error


def _watch(lab: Any, wanted: Sequence[str], matches: Any) -> Iterator[tuple[str, Frame]]:
    mark = lab.mark()
    while True:
        now = lab.mark()
        raw = lab.collect(mark, ("frames",))
        mark = now
        seen = sorted(
            (
                (raw.interfaces[node].get(frame.ifindex, node), frame)
                for node, blocks in raw.frames.items()
                for block in blocks
                for frame in frames(block)
            ),
            key=lambda pair: pair[1].time,
        )
        for tap, frame in seen:
            if (
                tap in wanted
                and nonce_of(frame) is None
                and (matches is None or matches(frame.data, frame.length))
            ):
                yield tap, frame
        lab.wait_for("frames", now, _WAIT_SECONDS)


def _limited(found: Iterator[tuple[str, Frame]], count: int | None) -> Iterator[tuple[str, Frame]]:
    for number, pair in enumerate(found, start=1):
        yield pair
        if count is not None and number >= count:
            return


def _line(tap: str, frame: Frame) -> str:
    """Write a packet as tcpdump does: time of day, where, addresses, flags, length."""
    packet = capture.dissect(frame, tap)
    seconds = frame.time // 1_000_000_000
    clock = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{frame.time // 1000 % 1_000_000:06d}"
    way = "out" if frame.outgoing else "in "
    if packet is None:
        return f"{clock} {tap:<32} {way} {frame.length} bytes"
    return f"{clock} {tap:<32} {way} {_told(packet)}"


def _told(packet: capture.Packet) -> str:
    """Return a packet's addresses, flags and length, and those of the packet that it wraps."""
    flow = packet.flow
    flags = f" [{packet.flags}]" if packet.flags else ""
    between = f"{flow.src}:{flow.sport} > {flow.dst}:{flow.dport}"
    within = f": {_told(packet.inner)}" if packet.inner else ""
    return f"{between}{flags} length {len(packet.payload)}{within}"


def _write(
    found: Iterator[tuple[str, Frame]],
    taps: Sequence[str],
    file: Path,
    known: Mapping[IPv4Address, Sequence[str]],
) -> None:
    numbers = {name: number for number, name in enumerate(taps)}
    infos = [pcapng.TapInfo(name, "") for name in taps]
    # without a buffer, so that a reader at the other end of a pipe sees each packet at once
    with open(1 if str(file) == "-" else file, "wb", buffering=0, closefd=str(file) != "-") as target:
        records = ((numbers[tap], frame, None) for tap, frame in found)
        pcapng.write_pcapng(target, infos, records, in_order=True, names=known)
