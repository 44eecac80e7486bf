"""Plan -> the lab as a picture: SVG that needs nothing else, or Mermaid text.

In the SVG, networks are bars from top to bottom; the cluster's nodes with their pods stand to the left of them, what
is outside to the right. A dot is an attachment; a line that crosses a bar without a dot passes over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.graph_boxes import (
    CHAR,
    GAP,
    PAD,
    ROW_HEIGHT,
    Box,
    baseline,
    cluster_box,
    endpoints_of,
    kind_of,
    named,
    outside_box,
    second_networks,
    services_box,
)
from harness.graph_path import ROW, Ground, Spot, Stop, legend, mermaid_lines, way
from harness.markup import Markup, element, joined
from harness.plan import Bindings, Plan

_HEAD, _APART = 52, 9
"""Where boxes begin, below the networks' names; how far lines keep apart. Twice that is less than a row, so that a
line from each side has its place in every row."""
_STYLE = Path(__file__).with_name("topology.css")


@dataclass(frozen=True)
class Picture:
    """A lab, drawn; `ground` is where its parts lie, `words` the same for those who cannot see it, sizes in pixels.

    The services, through which no way is drawn, are a part of their own; `short` is the height without them.
    """

    title: str
    words: str
    drawn: Markup
    services: Markup
    width: float
    height: float
    short: float
    ground: Ground


def picture(plan: Plan, bindings: Bindings) -> Picture:
    """Draw a lab."""
    left = [cluster_box(node, plan, bindings) for node in plan.cluster_nodes]
    if plan.services:
        left.append(services_box(plan, bindings))
    right = [outside_box(node, bindings) for node in plan.nodes if node.placement == "outside"]
    left_width = max((box.width for box in left), default=0.0)
    bars, begin = {}, (PAD + left_width + GAP if left else PAD)
    for network in _networks(plan):
        width = max(len(network), len(_cidr(plan, network))) * CHAR + PAD
        bars[network] = begin + width / 2
        begin += width
    right_begin = begin + GAP
    width = right_begin + max((box.width for box in right), default=0.0) + PAD
    height = _HEAD + max(sum(box.height + GAP / 2 for box in side) for side in (left, right)) + PAD
    parts = [_bar(network, _cidr(plan, network), x, height) for network, x in bars.items()]
    services = Markup("")
    taken: list[float] = []
    spots: dict[str, Spot] = {}
    ports: dict[tuple[str, str], float] = {}
    for boxes, x, edge in ((left, float(PAD), left_width), (right, right_begin, 0.0)):
        y = float(_HEAD)
        for box in boxes:
            side = x + (edge and box.width)
            for network, row, owner in box.ports:
                at = ports[owner, network] = _free(y + baseline(row) - 4, taken)
                parts.append(_link(side, at, bars[network]))
            if box.about:
                parts.append(_drawn(box, x, y))
            else:
                services = _drawn(box, x, y)
            for node, row in box.within:
                spots[node] = Spot(box.about, side, y + baseline(row) - 4, -1 if edge else 1)
            y += box.height + GAP / 2
    title, words = f"Topology of {plan.lab.lab}", " ".join(_sentences(plan))
    ends = [sum(box.height + GAP / 2 for box in side if box.about) for side in (left, right)]
    return Picture(
        title, words, joined(parts), services, width, height, _HEAD + max(ends), Ground(spots, ports, bars)
    )


def svg(plan: Plan, bindings: Bindings, stops: Sequence[Stop] = ()) -> Markup:
    """Return the picture as an SVG document of its own, which HTML may hold as it is; with a flow's stops in it."""
    found = picture(plan, bindings)
    drawn = element("g", found.drawn)
    return framed(found, "topology", drawn, stops, styled=True)


def framed(  # noqa: PLR0913 - a picture, and how much is to be told in it
    found: Picture,
    name: str,
    drawn: Markup,
    stops: Sequence[Stop] = (),
    *,
    styled: bool = False,
    listed: bool = True,
) -> Markup:
    """Return an SVG element with a picture as it is `drawn`, and a flow's stops; `name` begins its ids.

    In a page, the first is `styled`, which the others then are too; stops that the page lists need not be `listed`.
    """
    told = [stop.told(number) for number, stop in enumerate(stops, 1)]
    width, height = found.width, found.height
    if stops:
        drawn = element("svg", drawn, width=f"{width:.0f}", height=f"{found.short:.0f}")  # bars end there
        height = found.short
    if stops and listed:
        width = max(width, max(map(len, told)) * CHAR + 2 * PAD)
        height = found.short + len(stops) * ROW + PAD
    title = found.title + (f", with the way of a flow from {stops[0].hop}" if stops else "")
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", ". ".join(told) if stops else found.words, id=f"{name}-desc"),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))) if styled else "",
        drawn if stops else joined([drawn, found.services]),
        way(stops, found.ground),
        legend(stops if listed else (), PAD, found.short),
        xmlns="http://www.w3.org/2000/svg",
        class_="topology",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )


def mermaid(plan: Plan, bindings: Bindings, stops: Sequence[Stop] = ()) -> str:
    """Return the picture as a Mermaid flowchart (mermaid.js.org), for pages that draw such text."""
    ids = {node.name: f"n{number}" for number, node in enumerate(plan.nodes)}
    networks = {network: f"net{number}" for number, network in enumerate(_networks(plan))}
    lines = ["flowchart LR", f"  accTitle: Topology of {plan.lab.lab}"]
    for network, name in networks.items():
        lines.append(f'  {name}(["{_quoted(network)}<br>{_quoted(_cidr(plan, network))}"])')
    for host in plan.cluster_nodes:
        lines.append(f'  subgraph {ids[host.name]}["{_quoted(named(host, bindings))}"]')
        lines += [
            f'    {ids[pod.name]}["{_quoted(named(pod, bindings))}"]'
            for pod in plan.pods
            if pod.host == host.name
        ]
        lines.append("  end")
    for node in plan.nodes:
        if node.placement == "outside":
            lines.append(f'  {ids[node.name]}["{_quoted(node.name)}<br>{_quoted(kind_of(node))}"]')
        on = (*(network for network, _ in node.places), *second_networks(node))
        lines += [f"  {ids[node.name]} --- {networks[network]}" for network in on]
    for number, (name, service) in enumerate(plan.services.items()):
        lines.append(f'  svc{number}{{{{"{_quoted(f"{name}:{service.port}")}"}}}}')
        ends = (endpoint.rpartition(":")[0] or endpoint for endpoint in endpoints_of(service, plan))
        lines += [f"  svc{number} -.-> {ids[end]}" for end in dict.fromkeys(ends)]
    lines += mermaid_lines(stops, ids)
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text with Mermaid's entities for what would end or change a label."""
    return "".join(f"#{ord(char)};" if char in '"#<>&;`\\' else char for char in text)


def _networks(plan: Plan) -> Iterator[str]:
    """Yield the networks in the order of the file, the cluster's own first."""
    own = plan.lab.cluster.networks if plan.lab.cluster else ()
    yield from sorted(plan.lab.networks, key=lambda name: name not in own)


def _cidr(plan: Plan, network: str) -> str:
    return str(plan.lab.networks[network].cidr)


def _sentences(plan: Plan) -> Iterator[str]:
    """Yield the picture in words, for those who cannot see it."""
    for node in plan.nodes:
        if node.placement == "pod":
            continue
        pods = [pod.name for pod in plan.pods if pod.host == node.name]
        where = " and ".join(network for network, _ in node.places)
        yield f"{node.name} ({kind_of(node)}) is on {where}{', with pods ' + ', '.join(pods) if pods else ''}."


def _free(y: float, taken: list[float]) -> float:
    """Return the first place at or below `y` where no other line is in the way, and take it."""
    while any(abs(y - other) < _APART for other in taken):
        y += 1
    taken.append(y)
    return y


def _drawn(box: Box, x: float, y: float) -> Markup:
    rows = [
        element("text", row, x=f"{x + PAD:.0f}", y=f"{y + baseline(number):.0f}", style="white-space:pre")
        for number, row in enumerate(box.rows)
    ]
    frame = element(
        "rect",
        x=f"{x:.0f}",
        y=f"{y:.0f}",
        width=f"{box.width:.0f}",
        height=f"{box.height:.0f}",
        rx=6,
        class_="lab-box",
    )
    name = element("text", box.name, x=f"{x + PAD:.0f}", y=f"{y + baseline(-1):.0f}", class_="lab-name")
    return joined([frame, name, *rows])


def _bar(network: str, cidr: str, x: float, height: float) -> Markup:
    place = {"x": f"{x:.0f}", "text_anchor": "middle"}
    return joined(
        [
            element("text", network, y=ROW_HEIGHT, class_="lab-name", **place),
            element("text", cidr, y=2 * ROW_HEIGHT - 3, **place),
            element(
                "line",
                x1=f"{x:.0f}",
                y1=_HEAD - 8,
                x2=f"{x:.0f}",
                y2=f"{height - PAD:.0f}",
                class_="lab-bar",
            ),
        ]
    )


def _link(x: float, y: float, bar: float) -> Markup:
    return joined(
        [
            element("line", x1=f"{x:.0f}", y1=f"{y:.0f}", x2=f"{bar:.0f}", y2=f"{y:.0f}", class_="lab-link"),
            element("circle", cx=f"{bar:.0f}", cy=f"{y:.0f}", r=4, class_="lab-dot"),
        ]
    )
