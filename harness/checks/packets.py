"""`packets`: what the packets of this flow at a tap were like: how many, their fields, encrypted or plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness import capture
from harness.errors import LostEvidence
from harness.evidence import Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import OtherTap, Packets
from harness.sightings import inverse


def judge(expected: tuple[Packets, ...], evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield the findings of each entry; no packet at all is unknown, not a pass."""
    for entry in expected:
        mine = _of_the_flow(entry, entry.sent_by, evidence, passport)
        if _is_blind(entry.at, evidence):
            yield Finding("packets", "unknown", entry.at, "packets of the flow", "the tap is blind")
        elif entry.count is not None:
            state: State = "held" if _counts(len(mine), entry.count) else "broken"
            yield Finding("packets", state, entry.at, f"{entry.count} packets", f"{len(mine)} packets")
        elif not mine:
            yield Finding("packets", "unknown", entry.at, "packets of the flow", "none")
        if entry.as_many_as is not None:
            yield _as_many(entry, entry.as_many_as, len(mine), evidence, passport)
        if mine and entry.are:
            yield _cover(entry, [packet.innermost for packet in mine], passport)
        if mine and (entry.layers or entry.fields):
            yield from _fields(entry, mine, evidence)
        if mine and entry.shows:
            yield _shown(entry, mine)


def _of_the_flow(
    wanted: Packets | OtherTap, sent_by: str | None, evidence: Evidence, passport: Passport
) -> list[capture.Packet]:
    """Return the flow's packets at a tap, and those that one of them is wrapped in."""
    found = []
    packets_of = evidence.recorded.packets_of
    wanted_flows = {*passport.flows, *map(inverse, passport.flows)}
    near = {id(packet): packet for flow in wanted_flows for packet in packets_of.get(flow, ())}
    for packet in sorted(near.values(), key=lambda packet: packet.time):
        flow = packet.innermost.flow
        forth, back = flow in passport.flows, inverse(flow) in passport.flows
        if packet.tap == wanted.at and {"client": forth, "server": back}.get(sent_by or "", forth or back):
            found.append(packet)
    return capture.matching(found, wanted.where) if wanted.where else found


def _as_many(entry: Packets, other: OtherTap, number: int, evidence: Evidence, passport: Passport) -> Finding:
    """Compare the count with that of the flow's packets at another tap; none at either proves nothing."""
    there = len(_of_the_flow(other, entry.sent_by, evidence, passport))
    wanted = f"as many packets as at {other.at}{f' where {other.where}' if other.where else ''}"
    seen = f"{number} of {there} packets"
    if _is_blind(other.at, evidence) or _is_blind(entry.at, evidence):
        return Finding("packets", "unknown", entry.at, wanted, f"{seen}, and a tap is blind")
    state: State = "unknown" if not there else "held" if number == there else "broken"
    return Finding("packets", state, entry.at, wanted, seen)


def _shown(entry: Packets, mine: Sequence[capture.Packet]) -> Finding:
    """Judge whether texts occur in what the innermost packets carry, one after the other."""
    carried = b"".join(packet.innermost.payload for packet in mine)
    missing = [text for text in entry.shows if text.encode() not in carried]
    seen = f"no {' and no '.join(map(repr, missing))} in {len(carried)} bytes" if missing else "these words"
    state: State = "broken" if missing else "held"
    return Finding(
        "packets", state, entry.at, f"packets that carry {', '.join(map(repr, entry.shows))}", seen
    )


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


def _fields(entry: Packets, mine: Sequence[capture.Packet], evidence: Evidence) -> Iterator[Finding]:
    parts = (
        *((" / ".join(entry.layers),) if entry.layers else ()),
        *(f"{name} {_named(wanted, evidence)}" for name, wanted in entry.fields.items()),
    )
    wanted_words = ", ".join(parts)
    for packet in mine:
        layered = capture.fields(packet.frame)
        wrong = []
        if not capture.has_layers(layered, entry.layers):
            wrong.append(" / ".join(layer.__name__ for layer in layered.layers()))
        for name, wanted in entry.fields.items():
            found = capture.value_of(layered, name)
            if str(found) not in _values(wanted, evidence):
                wrong.append(f"{name} {found}")
        if wrong:
            yield Finding("packets", "broken", entry.at, wanted_words, ", ".join(wrong))
            return
    yield Finding("packets", "held", entry.at, wanted_words, f"{len(mine)} packets so")


def _values(wanted: object, evidence: Evidence) -> tuple[str, ...]:
    """Return what a field may be: the value itself, or the addresses of what `node/NAME` or `pod/NAME` names."""
    kind, _, name = str(wanted).partition("/")
    if kind not in ("node", "pod") or not name:
        return (str(wanted),)
    return tuple(str(address) for address in evidence.bindings.of_both_families(evidence.plan.node(name)))


def _named(wanted: object, evidence: Evidence) -> str:
    values = _values(wanted, evidence)
    return str(wanted) if values == (str(wanted),) else f"{wanted} ({', '.join(values)})"
