"""A flow as a ladder diagram: a line for each hop, and down it in order of time what each witness saw there.

An arrow is one packet that taps of two hops saw, with the same 5-tuple: at the one first, then arriving at the other.
Every other sighting is a mark, whose shape says who saw it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.denial import denials
from harness.evidence import Sighting
from harness.explain import arrow
from harness.markup import Markup, element, joined
from harness.passport import Passport

_CHAR, _LINE, _TIMES, _EDGE = 6.7, 14, 84, 12
"""In pixels: width of a letter (monospace of 11 pixels), height of a line, width of the time stamps, of the edge."""

_LONGEST = 118
"""Letters of a line; what is cut stands in full in the table of the passport."""

_FACTS = ("verdict", "by", "rule", "identity", "reason", "request", "status", "failure", "refused", "icmp")
SHAPES = {"log": "square", "conntrack": "diamond", "nflog": "triangle", "tap": "circle"}
"""The shape of each witness's mark."""


@dataclass(frozen=True)
class _Row:
    """One line across the ladder: a mark at the hop `at`, or an arrow from there `to` another."""

    sighting: Sighting
    at: str
    to: str | None
    lines: tuple[str, ...]
    denied: bool

    @property
    def height(self) -> int:
        """In pixels: the words, and below them the mark."""
        return len(self.lines) * _LINE + 16


def ladder(passport: Passport, begun: int, number: int) -> Markup:
    """Return the diagram of a flow that began at `begun` (ns); `number` makes its ids unique in the page."""
    hops = passport.hops()
    rows = tuple(_rows(passport))
    names = {hop: re.findall(r"[^/ ]+/?", hop) for hop in hops}
    apart = max(90.0, *(len(part) * _CHAR + _EDGE for parts in names.values() for part in parts))
    places = {hop: _TIMES + apart * (index + 0.5) for index, hop in enumerate(hops)}
    longest = max(len(line) for row in rows for line in row.lines)
    width = max(_TIMES + apart * len(hops), _TIMES + longest * _CHAR) + _EDGE
    head = max(len(parts) for parts in names.values()) * _LINE + _EDGE
    height = head + sum(row.height for row in rows) + _EDGE
    parts: list[Markup] = []
    for hop, x in places.items():
        parts.append(element("line", x1=_px(x), y1=head, x2=_px(x), y2=height - 4, class_="life"))
        parts += [_text(part, x, (line + 1) * _LINE, middle=True) for line, part in enumerate(names[hop])]
    y = float(head)
    for row in rows:
        parts.append(_drawn(row, begun, y, places, width))
        y += row.height
    title = f"ladder-{number}-title"
    return element(
        "svg",
        element(
            "title",
            f"Ladder diagram from {hops[0]} to {hops[-1]}; the table of the passport says the same",
            id=title,
        ),
        *parts,
        class_="ladder",
        role="img",
        aria_labelledby=title,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=_px(width),
        height=_px(height),
    )


def _rows(passport: Passport) -> Iterator[_Row]:
    """Yield the sightings in order of time; an arrival stands with the sighting of its packet at the hop before.

    Of a packet that a hop forwards unchanged, only the tap by which it came has a sighting: its arrow begins there.
    """
    denied = {(sighting.at, sighting.time) for sighting in denials(passport)}
    arrivals: set[int] = set()
    last: dict[object, str] = {}
    for index, sighting in enumerate(passport.sightings):
        if id(sighting) in arrivals:
            continue
        start, end = sighting.at, None
        if sighting.witness == "tap":
            arrival = _arrival(sighting, passport.sightings[index + 1 :])
            packet = sighting.event, sighting.flow
            if arrival is not None and id(arrival) not in arrivals:
                arrivals.add(id(arrival))
                end = arrival.at
            elif sighting.facts.get("outgoing") == "false" and last.get(packet, start) != start:
                start, end = last[packet], sighting.at
            last[packet] = end or start
        lines = tuple(
            line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…" for line in _words(sighting)
        )
        yield _Row(sighting, start, end, lines, (sighting.at, sighting.time) in denied)


def _arrival(sent: Sighting, later: tuple[Sighting, ...]) -> Sighting | None:
    """Return where a packet that left a hop was seen next."""
    if sent.facts.get("outgoing") != "true":
        return None
    for sighting in later:
        same = (sighting.witness, sighting.event, sighting.flow) == ("tap", sent.event, sent.flow)
        if same and sighting.at != sent.at and sighting.facts.get("outgoing") == "false":
            return sighting
    return None


def _words(sighting: Sighting) -> Iterator[str]:
    """Yield a sighting in one or two lines: who saw what, and what became of the addresses; then its facts."""
    flow, onward = sighting.flow, sighting.onward
    words = [f"{sighting.witness} {sighting.event}"]
    if flow is not None:
        words.append(arrow(flow))
    if flow is not None and onward is not None and onward != flow:
        source = "source" if (onward.src, onward.sport) != (flow.src, flow.sport) else ""
        target = "destination" if (onward.dst, onward.dport) != (flow.dst, flow.dport) else ""
        kind = " and ".join(filter(None, (source, target)))
        word = f"{kind} translated:" if sighting.witness == "conntrack" else "onward as"
        words.append(f"{word} {arrow(onward)}")
    yield " ".join(words)
    facts = " ".join(f"{key}={sighting.facts[key]}" for key in _FACTS if sighting.facts.get(key))
    if facts:
        yield facts


def _drawn(row: _Row, begun: int, y: float, places: dict[str, float], width: float) -> Markup:
    x = places[row.at]
    begin = min(x, places[row.to]) if row.to else x
    long = max(len(line) for line in row.lines) * _CHAR
    left = max(float(_TIMES), min(begin - 6, width - long - 4))
    sign = "✗ " if row.denied else ""
    stamp = f"{(row.sighting.time - begun) / 1e6:.2f} ms"
    parts = [_text(stamp, 4, y + _LINE)]
    parts += [
        _text(sign + line if not number else line, left, y + (number + 1) * _LINE)
        for number, line in enumerate(row.lines)
    ]
    at = y + len(row.lines) * _LINE + 9
    if row.to is not None:
        parts.append(_arrow(x, places[row.to], at))
    parts.append(_mark(SHAPES[row.sighting.witness], x, at))
    return element("g", *parts, class_="denied" if row.denied else "seen")


def _arrow(x: float, to: float, y: float) -> Markup:
    back = -9 if to > x else 9
    tip = f"{to:.0f},{y:.0f} {to + back:.0f},{y - 4:.0f} {to + back:.0f},{y + 4:.0f}"
    return joined(
        [
            element("line", x1=_px(x), y1=_px(y), x2=_px(to + back), y2=_px(y), class_="way"),
            element("polygon", points=tip, class_="mark"),
        ]
    )


def _mark(shape: str, x: float, y: float) -> Markup:
    if shape == "circle":
        return element("circle", cx=_px(x), cy=_px(y), r=4, class_="mark")
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[shape]
    points = " ".join(f"{x + dx:.0f},{y + dy:.0f}" for dx, dy in corners)
    return element("polygon", points=points, class_="mark")


def key() -> Markup:
    """Return what the marks mean, in words and drawn."""
    parts: list[object] = []
    for witness, shape in SHAPES.items():
        drawn = element("svg", _mark(shape, 8, 8), class_="ladder", width=16, height=16, aria_hidden="true")
        parts += [drawn, f" {shape}: {witness}; "]
    return element(
        "p", *parts, "an arrow: one packet, at two hops; ✗: this hop denied the flow", class_="key"
    )


def _text(words: str, x: float, y: float, *, middle: bool = False) -> Markup:
    return element("text", words, x=_px(x), y=_px(y), text_anchor="middle" if middle else None)


def _px(value: float) -> str:
    return f"{value:.0f}"
