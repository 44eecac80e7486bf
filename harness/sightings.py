"""Raw recordings -> sightings: each witness's own words put on one schema."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import lookup
from harness.capture import Packet, dissect
from harness.evidence import REVERSE_PATH_DROPS, RP_FILTER, Recorded, Sighting
from harness.plan import Plan
from harness.programs.fivetuple import ICMP, FiveTuple
from harness.programs.ippacket import flow_of, parse
from harness.programs.tap import frames
from harness.running import Raw

Counters = Mapping[str, Mapping[str, Sequence[int]]]
_TCP, _UDP = 6, 17
_LAST_PORT = 65535
ECHO = 8 << 8
"""What stands in the place of a port where an ICMP packet is an echo request (FiveTuple)."""


def digest(raw: Raw, plan: Plan, before: Counters, after: Counters, blind: Sequence[str]) -> Recorded:
    """Return everything recorded in a span as sightings in order of time, with packets and counters beside them."""
    packets = tuple(sorted(_packets(raw), key=lambda found: found[1].time))
    lines = {_program(key): tuple(found) for key, found in raw.lines.items()}
    counters = _difference(before, after)
    sightings = [*_conntrack(raw), *_nflog(raw, packets), *_from_packets(packets)]
    sightings += _not_by_the_way_back(packets, counters)
    for (node_name, program), found in lines.items():
        if node_name not in plan.by_name:  # its last words; a step took it away
            continue
        node = plan.node(node_name)
        for kind in node.kinds:
            reader = getattr(lookup.find("nodes", kind), "read_log", None)
            if reader is not None:
                sightings += reader(node, program, found)
    return Recorded(
        lines=lines,
        sightings=tuple(sorted(sightings, key=lambda sighting: sighting.time)),
        packets=tuple(packet for _, packet in packets),
        counters=counters,
        lost=raw.lost,
        blind=tuple(blind),
        ended=raw.ended,
    )


def read_address(text: object) -> tuple[str, int] | None:
    """Split `ip:port`; None for what a program writes when it has none (`-`, empty), and for anything else."""
    if not isinstance(text, str):
        return None
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > _LAST_PORT:
        return None
    return host.strip("[]"), int(port)


def tcp(source: object, destination: object) -> FiveTuple | None:
    """Return the TCP 5-tuple between two `ip:port` texts, None when either is missing."""
    first, second = read_address(source), read_address(destination)
    if first is None or second is None:
        return None
    return FiveTuple(_TCP, first[0], first[1], second[0], second[1])


def json_lines(lines: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    """Yield the events of a program that prints one JSON object a line; other lines are skipped.

    `time` is always there, in ns: the event's own, or when the line was recorded where that is unusable.
    """
    for recorded, line in lines:
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event | {"time": _time(event.get("time"), recorded)}


def facts_of(event: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Return an event's texts and numbers under these keys, as text; empty texts and `-` are left out."""
    found = ((key, event.get(key)) for key in keys)
    return {
        key: str(value)
        for key, value in found
        if isinstance(value, str | int | float) and value not in ("", "-")
    }


def inverse(flow: FiveTuple) -> FiveTuple:
    """Return the 5-tuple of the other direction; of an echo request its answer's, of an answer its request's."""
    if flow.protocol == ICMP and flow.dport in (ECHO, 0):
        return FiveTuple(ICMP, flow.dst, flow.sport, flow.src, ECHO - flow.dport)
    return FiveTuple(flow.protocol, flow.dst, flow.dport, flow.src, flow.sport)


def _time(value: object, recorded: int) -> int:
    """Return an event's time, which Envoy writes as a text; only what fits 64 bits is one."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value):
        value = int(value)
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63
    return value if plausible and isinstance(value, int) else recorded


def _program(key: str) -> tuple[str, str]:
    node, _, program = key.rpartition(" ")
    return node, program


def _packets(raw: Raw) -> Iterator[tuple[str, Packet]]:
    for node, blocks in raw.frames.items():
        names = raw.interfaces.get(node, {})
        for block in blocks:
            for frame in frames(block):
                packet = dissect(frame, names.get(frame.ifindex, f"{node}.if{frame.ifindex}"))
                if packet is not None:
                    yield node, packet


def _from_packets(packets: Sequence[tuple[str, Packet]]) -> Iterator[Sighting]:
    """Yield openings (the first SYN or datagram of a flow), resets and ICMP errors, as each node's taps saw them.

    A SYN with another sequence number is another connection, whose port was used before.
    """
    seen: set[tuple[str, FiveTuple, int]] = set()
    for node, packet in packets:
        facts = {"tap": packet.tap, "outgoing": str(packet.outgoing).lower()}
        if packet.icmp is not None:
            kind, code, quoted = packet.icmp
            if quoted is not None:
                facts |= {"icmp": f"{kind}/{code}", "by": packet.flow.src}
                yield Sighting(node, "tap", "icmp", packet.time, quoted, None, facts)
            if packet.flow.dport != ECHO:
                continue
        if "R" in packet.flags:
            yield Sighting(node, "tap", "reset", packet.time, inverse(packet.flow), None, facts)
        number = packet.seq if packet.flow.protocol == _TCP else 0
        opens = packet.flags == "S" or packet.flow.protocol in (ICMP, _UDP)
        answers = packet.flow.protocol == _UDP and (node, inverse(packet.flow), 0) in seen
        if opens and not answers and (node, packet.flow, number) not in seen:
            seen.add((node, packet.flow, number))
            yield Sighting(
                node, "tap", "opening", packet.time, packet.flow, None, facts | {"seq": str(number)}
            )


def _not_by_the_way_back(
    packets: Sequence[tuple[str, Packet]], counters: Mapping[str, Mapping[str, tuple[int, int]]]
) -> Iterator[Sighting]:
    """Yield answers (SYN and ACK) that came to a node and never left it, where its kernel counts drops by rp_filter.

    Whatever a node translates, sequence numbers and IP ids stay as they are.
    """
    dropping = {
        node: counted
        for node, named in counters.items()
        if (counted := named.get(REVERSE_PATH_DROPS, (0, 0)))[1] > counted[0]
    }
    answers = [(node, one) for node, one in packets if node in dropping and one.flags == "SA"]
    left = {(node, one.ip_id, one.seq, one.ack) for node, one in answers if one.outgoing}
    told: set[tuple[str, FiveTuple]] = set()
    for node, one in answers:
        if one.outgoing or (node, one.ip_id, one.seq, one.ack) in left or (node, one.flow) in told:
            continue
        told.add((node, one.flow))
        before, after = dropping[node]
        reason = f"its answer came in by {one.tap}; {REVERSE_PATH_DROPS} {before} -> {after}"
        facts = {"rule": RP_FILTER, "tap": one.tap, "reason": reason}
        yield Sighting(node, "tap", "drop", one.time, inverse(one.flow), None, facts)


def _conntrack(raw: Raw) -> Iterator[Sighting]:
    for node, events in raw.conntrack.items():
        for event in events:
            if event.kind == "new" and event.original.protocol in (_TCP, _UDP):
                onward = inverse(event.reply)
                translated = (
                    ""
                    if onward == event.original
                    else f"{onward.src}:{onward.sport}>{onward.dst}:{onward.dport}"
                )
                yield Sighting(
                    node, "conntrack", "new", event.time, event.original, onward, {"translated": translated}
                )


def _nflog(raw: Raw, packets: Iterable[tuple[str, Packet]]) -> Iterator[Sighting]:
    """Yield firewall log entries; the prefix is `<allow|drop|reject> <rule>`, and behind that a reason or none.

    Where a node translates the destination before it decides, the entry has the packet as it was then, and of what is
    dropped connection tracking tells nobody: as what it came there is known by the packet's own identity.
    """
    came = _as_they_came(packets, raw.nflog.keys())
    for node, entries in raw.nflog.items():
        for entry in entries:
            event, _, words = entry.prefix.partition(" ")
            rule, _, more = words.strip().partition(" ")
            identity = _identity(entry.packet) if entry.flow else ()
            facts = {"rule": rule} | ({"reason": more} if more else {})
            facts |= {"packet": "/".join(map(str, identity[2:]))} if identity else {}
            before = came.get((node, *identity))
            translated = before is not None and before != entry.flow
            flow, onward = (before, entry.flow) if translated else (entry.flow, None)
            yield Sighting(node, "nflog", event, entry.time, flow, onward, facts)


def _as_they_came(
    packets: Iterable[tuple[str, Packet]], nodes: Container[str]
) -> dict[tuple[object, ...], FiveTuple]:
    """Return the 5-tuples of packets that came to these nodes, by node, source, IP id and TCP sequence number."""
    return {
        (node, packet.flow.src, packet.flow.sport, packet.ip_id, packet.seq): packet.flow
        for node, packet in packets
        if node in nodes and not packet.outgoing
    }


def _identity(data: bytes) -> tuple[object, ...]:
    """Return what no translation of a destination changes: source, IP id, and TCP's sequence number or 0."""
    ip = parse(data)
    flow = flow_of(data, ip) if ip is not None else None
    if ip is None or flow is None:
        return ()
    sequence = data[ip.start + 4 : ip.start + 8] if flow.protocol == _TCP else b""
    return flow.src, flow.sport, ip.ip_id, int.from_bytes(sequence, "big")


def _difference(before: Counters, after: Counters) -> dict[str, dict[str, tuple[int, int]]]:
    return {
        node: {name: (before.get(node, {}).get(name, (0, 0))[0], values[0]) for name, values in named.items()}
        for node, named in after.items()
    }
