"""`packets`: what the packets of this flow at a tap were like: how many, their fields, encrypted or plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness import capture
from harness.errors import LostEvidence
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import Packets
from harness.sightings import inverse


def judge(expected: tuple[Packets, ...], evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield the findings of each entry; no packet at all is unknown, not a pass."""
    for entry in expected:
        mine = [
            packet
            for packet in evidence.recorded.packets
            if packet.tap == entry.at
            and (packet.flow in passport.flows or inverse(packet.flow) in passport.flows)
        ]
        if entry.where:
            mine = capture.matching(mine, entry.where)
        if _is_blind(entry.at, evidence):
            yield Finding("packets", "unknown", entry.at, "packets of the flow", "the tap is blind")
        elif entry.count is not None:
            state: State = "held" if _counts(len(mine), entry.count) else "broken"
            yield Finding("packets", state, entry.at, f"{entry.count} packets", f"{len(mine)} packets")
        elif not mine:
            yield Finding("packets", "unknown", entry.at, "packets of the flow", "none")
        if mine and entry.are:
            yield _cover(entry, mine, passport)
        if mine and (entry.layers or entry.fields):
            yield from _fields(entry, mine)


def _is_blind(tap: str, evidence: Evidence) -> bool:
    """Say whether a tap is blind; no nonce passes loopback, whose packets are in the ring of the pod's other tap."""
    seen_by = f"{tap.removesuffix('.lo')}.eth0" if tap.endswith(".lo") else tap
    return seen_by in evidence.recorded.blind


def _counts(number: int, wanted: int | str) -> bool:
    """Compare with `3`, or with `>= 3` and the like."""
    words = str(wanted).split()
    if len(words) == 1:
        return number == int(words[0])
    limit = int(words[1])
    return {">=": number >= limit, "<=": number <= limit, ">": number > limit, "<": number < limit}[words[0]]


def _cover(entry: Packets, mine: Sequence[capture.Packet], passport: Passport) -> Finding:
    """Judge whether both directions are TLS records from the first byte, with application data."""
    verdicts = []
    for flow in {packet.flow for packet in mine if packet.flow in passport.flows}:
        try:
            streams = capture.stream(mine, flow)
        except LostEvidence as error:
            return Finding("packets", "unknown", entry.at, f"{entry.are} packets", str(error))
        verdicts += [capture.is_tls(stream) for stream in streams]
    wanted = f"{entry.are} in both directions"
    reasons = [str(verdict) for verdict in verdicts if verdict is not True]
    if entry.are == "encrypted":
        state: State = "held" if verdicts and not reasons else "broken"
        return Finding(
            "packets", state, entry.at, wanted, "TLS records only" if not reasons else "; ".join(reasons)
        )
    plain = len(reasons) == len(verdicts)
    return Finding(
        "packets", "held" if plain else "broken", entry.at, wanted, "no TLS" if plain else "TLS records"
    )


def _fields(entry: Packets, mine: Sequence[capture.Packet]) -> Iterator[Finding]:
    for packet in mine:
        layered = capture.fields(packet.frame)
        missing = [layer for layer in entry.layers if not layered.haslayer(layer)]
        wrong = {}
        for name, wanted in entry.fields.items():
            layer, _, field = name.partition(".")
            seen = layered[layer].getfieldval(field) if layered.haslayer(layer) else None
            if str(seen) != str(wanted):
                wrong[name] = seen
        if missing or wrong:
            seen_words = ", ".join(
                [*(f"no layer {layer}" for layer in missing), *(f"{k}: {v}" for k, v in wrong.items())]
            )
            yield Finding(
                "packets", "broken", entry.at, f"layers {entry.layers} fields {entry.fields}", seen_words
            )
            return
    yield Finding(
        "packets", "held", entry.at, f"layers {entry.layers} fields {entry.fields}", f"{len(mine)} packets so"
    )
