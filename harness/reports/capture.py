"""capture.pcapng: every packet that every tap saw during the run, one interface per tap, in order of time.

With it come the names of the lab's addresses, and the secrets of its TLS connections unless they were not to be kept:
a reader sees what was said inside mutual TLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from harness.address_names import readable_names
from harness.explain import arrow
from harness.passport import Passport
from harness.pcapng import ETHERNET as ETHERNET_LINK
from harness.pcapng import RAW_IP, TapInfo, write_pcapng
from harness.programs.tap import ETHERNET, LOOPBACK, Frame, frames, nonce_of
from harness.report import Summary
from harness.run import Result
from harness.running import Mark, RunningLab

_ADVICE = "to see TLS at every port: -o tcp.try_heuristic_first:TRUE"
"""Else Wireshark takes some ports for those of others (3128 for plain HTTP), and TLS at them for that."""

Moment = tuple[int, str]
"""A frame, by its time (ns since the epoch) and its tap: what a sighting knows of it."""


def write(summary: Summary, lab: RunningLab | None, folder: Path) -> None:
    """Write the file; the first packet of each flow has its scenario and verdict as a comment."""
    if lab is None:
        return
    raw = lab.collect(Mark(0, {}), ("frames",))
    names = sorted({name for taps in raw.interfaces.values() for name in taps.values()})
    numbers = {name: number for number, name in enumerate(names)}
    found = [
        (frame.time, name, frame)
        for node, blocks in raw.frames.items()
        for name_of in (raw.interfaces[node].get,)
        for block in blocks
        for frame in frames(block)
        for name in (name_of(frame.ifindex, node),)
        if nonce_of(frame) is None
    ]
    found.sort(key=itemgetter(0))
    bare = {
        name for _, name, frame in found if frame.hardware not in (ETHERNET, LOOPBACK)
    }  # IP-in-IP devices
    infos = [
        TapInfo(name, _described(name, lab), RAW_IP if name in bare else ETHERNET_LINK) for name in names
    ]
    comments = _comments(summary.results, found)
    write_pcapng(
        folder / "capture.pcapng",
        infos,
        ((numbers.get(name, 0), frame, comments.get((time, name))) for time, name, frame in found),
        in_order=True,
        names=readable_names(lab.plan, lab.bindings),
        secrets=lab.secrets() if summary.secrets else b"",
        comment=f"lab {summary.lab} of Egress Lab; {_ADVICE}",
    )


def _described(tap: str, lab: RunningLab) -> str:
    """Say whose interface a tap is at, and by what address."""
    name, _, interface = tap.rpartition(".")
    plan, bindings = lab.plan, lab.bindings
    node = next((node for node in plan.nodes if node.name == name), None)
    if node is None:
        return f"{name}, which is no longer there"
    if node.placement == "pod":
        address = bindings.second.get(name) if interface == "net1" else bindings.pods[name]
        return f"pod {name}, {address}" if interface != "lo" else f"pod {name}, within itself"
    who = f"{name} ({' '.join(node.kinds)})"
    if (name, interface) in bindings.addresses:
        return f"{who} on network {interface}, {bindings.addresses[name, interface]}"
    return f"{who}, within itself" if interface == "lo" else f"{who}, its interface {interface}"


def _comments(results: Sequence[Result], found: Sequence[tuple[int, str, Frame]]) -> Mapping[Moment, str]:
    """Return what is to be said of which frame: of what flow it is the first, and as what it was before translation.

    A flow that no tap saw is told of at the first frame after it began.
    """
    comments: dict[Moment, list[str]] = {}
    for result in results:
        if result.evidence is None or result.passport is None:
            continue
        began = result.evidence.attempt.started
        seen = [(one.time, one.facts["tap"]) for one in result.passport.sightings if one.witness == "tap"]
        first = next(iter(seen), None) or next(
            ((time, name) for time, name, _ in found if time >= began), None
        )
        if first is not None:
            comments.setdefault(first, []).append(f"{result.item.id}: {result.verdict.state}")
        for moment, words in _translations(result.passport):
            comments.setdefault(moment, []).append(words)
    return {moment: "\n".join(dict.fromkeys(lines)) for moment, lines in comments.items()}


def _translations(passport: Passport) -> Iterator[tuple[Moment, str]]:
    """Yield the first frame of each flow whose source a node translated, with what connection tracking said of it."""
    for sighting in passport.sightings:
        before, after = sighting.flow, sighting.onward
        if sighting.witness != "conntrack" or before is None or after is None or before.src == after.src:
            continue
        frame = next((one for one in passport.sightings if one.witness == "tap" and one.flow == after), None)
        if frame is not None:
            words = f"source translated at {sighting.at}: {arrow(before)} became {arrow(after)}"
            yield (frame.time, frame.facts["tap"]), words
