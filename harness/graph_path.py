"""A flow's way through the picture of a lab: its stops, numbered where they lie, and a line from each to the next.

A leg from one box to another runs along the network by which the flow came there. Who cannot see the picture reads
the stops, which stand below it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.markup import Markup, element, joined

ROW = 19
"""Height of a line below the picture, in pixels."""

_RADIUS, _ASIDE, _LANES = 8, 6, 5
"""In pixels: of a stop's number; how far from its edge a line runs within a box; between legs on one network."""

_NUMBER_WIDTH = 2 * _RADIUS + 2


@dataclass(frozen=True)
class Stop:
    """A hop where a flow was seen: at a node, come by a network (None: within its box), with what happened there.

    `denied` says that this hop said no.
    """

    hop: str
    node: str
    network: str | None
    words: str
    denied: bool = False

    def told(self, number: int | None = None) -> str:
        """Return the stop as a line of text, with its number if it is given."""
        words = f": {self.words}" if self.words else ""
        return f"{f'{number} ' if number else ''}{'✗ ' if self.denied else ''}{self.hop}{words}"


@dataclass(frozen=True)
class Spot:
    """Where a node stands in the picture: the edge of its box towards the networks, and its row; in pixels.

    `inward` is the direction from the edge into the box: -1 to the left, 1 to the right.
    """

    box: str
    x: float
    y: float
    inward: int


@dataclass(frozen=True)
class Ground:
    """What a way needs to know of a picture: spots by node, lines to networks by (node, network), networks' places."""

    spots: Mapping[str, Spot]
    ports: Mapping[tuple[str, str], float]
    bars: Mapping[str, float]

    def port(self, node: str, network: str) -> float | None:
        """Return where a node's way to a network begins: at a line of its own, or at that of the box that it is in."""
        own = self.ports.get((node, network))
        return own if own is not None else self.ports.get((self.spots[node].box, network))


def way(stops: Sequence[Stop], ground: Ground) -> Markup:
    """Return the line through a flow's stops, and their numbers; stops at nodes that the picture lacks have none."""
    known = [(number, stop) for number, stop in enumerate(stops, 1) if stop.node in ground.spots]
    legs = [_leg(one, other, ground, lane) for lane, ((_, one), (_, other)) in enumerate(pairwise(known))]
    points = [" ".join(f"{x:.0f},{y:.0f}" for x, y in leg) for leg in legs if len(leg) > 1]
    marks, taken = [], dict[Spot, int]()
    for number, stop in known:
        spot = ground.spots[stop.node]
        aside = taken.get(spot, 0)
        taken[spot] = aside + 1
        marks.append(_number(number, spot.x - spot.inward * aside * _NUMBER_WIDTH, spot.y, stop))
    lines = [element("polyline", points=leg, class_="lab-way") for leg in points]
    return joined([*lines, *marks])


def legend(stops: Sequence[Stop], x: float, y: float) -> Markup:
    """Return the stops as lines of text."""
    return joined(
        element(
            "text",
            stop.told(number),
            x=f"{x:.0f}",
            y=f"{y + number * ROW:.0f}",
            class_="lab-no" if stop.denied else None,
        )
        for number, stop in enumerate(stops, 1)
    )


def mermaid_lines(stops: Sequence[Stop], ids: Mapping[str, str]) -> Iterator[str]:
    """Yield a flow's way as lines of a Mermaid flowchart whose nodes have these ids."""
    known = [(number, stop) for number, stop in enumerate(stops, 1) if stop.node in ids]
    for (_, one), (number, other) in pairwise(known):
        if one.node != other.node:
            yield f'  {ids[one.node]} ==>|"{number}"| {ids[other.node]}'
    denied = [ids[stop.node] for _, stop in known if stop.denied]
    if denied:
        yield "  classDef denied stroke:#a40e26,stroke-width:4px"
        yield f"  class {','.join(dict.fromkeys(denied))} denied"
    yield from (f"  %% {stop.told(number)}" for number, stop in enumerate(stops, 1))


def _leg(one: Stop, other: Stop, ground: Ground, lane: int) -> list[tuple[float, float]]:
    """Return the corners of the line from a stop to the next."""
    here, there = ground.spots[one.node], ground.spots[other.node]
    begin = here.x + here.inward * _ASIDE, here.y
    end = there.x + there.inward * _ASIDE, there.y
    if here.box == there.box:
        return [begin, end] if begin != end else []
    known = sorted(ground.bars, key=lambda name: name != other.network)  # first that by which it came
    for network in known:
        leaves, arrives = ground.port(one.node, network), ground.port(other.node, network)
        if leaves is None or arrives is None:
            continue
        bar = ground.bars[network] + (lane % 3 - 1) * _LANES
        return [begin, (begin[0], leaves), (bar, leaves), (bar, arrives), (end[0], arrives), end]
    return [begin, end]


def _number(number: int, x: float, y: float, stop: Stop) -> Markup:
    place = {"cx": f"{x:.0f}", "cy": f"{y:.0f}"}
    return element(
        "g",
        element("circle", r=_RADIUS, **place),
        element("text", "✗" if stop.denied else number, x=f"{x:.0f}", y=f"{y + 4:.0f}"),
        class_="lab-stop lab-no" if stop.denied else "lab-stop",
    )
