"""Plan -> the lab as a picture: SVG that needs nothing else, or Mermaid text.

In the SVG, networks are bars from top to bottom; the cluster's nodes with their pods stand to the left of them, what
is outside to the right. A dot is an attachment; a line that crosses a bar without a dot passes over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.lab import Service
from harness.markup import Markup, element, joined
from harness.plan import Bindings, Node, Plan

_CHAR, _ROW, _PAD, _GAP = 7.3, 19, 10, 26
"""In pixels: width of a letter (monospace of 12 pixels, rounded up), height of a row, inside and outside of boxes."""

_HEAD, _APART = 52, 9
"""Where boxes begin, below the networks' names; how far lines keep apart. Twice that is less than a row, so that a
line from each side has its place in every row."""
_STYLE = """
svg.topology{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;background:#fff}
svg.topology text{fill:#1b1f24}
svg.topology .name{font-weight:bold}
svg.topology .box{fill:#f6f8fa;stroke:#57606a}
svg.topology .bar{stroke:#0969da;stroke-width:5}
svg.topology .link{stroke:#57606a;stroke-width:1.5}
svg.topology .dot{fill:#0969da;stroke:#fff;stroke-width:1.5}
@media (prefers-color-scheme:dark){
svg.topology{background:#0d1117}
svg.topology text{fill:#e6edf3}
svg.topology .box{fill:#161b22;stroke:#8b949e}
svg.topology .bar{stroke:#58a6ff}
svg.topology .link{stroke:#8b949e}
svg.topology .dot{fill:#58a6ff;stroke:#0d1117}
}
@media print{svg.topology{background:#fff}svg.topology text{fill:#000}svg.topology .box{fill:#fff}}
"""


@dataclass(frozen=True)
class _Box:
    """A box with a name and rows of text; `ports` are the rows that a line to a network begins at."""

    name: str
    rows: tuple[str, ...]
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def width(self) -> float:
        """In pixels."""
        return max(len(text) for text in (self.name, *self.rows)) * _CHAR + 2 * _PAD

    @property
    def height(self) -> float:
        """In pixels."""
        return (1 + len(self.rows)) * _ROW + _PAD


def svg(plan: Plan, bindings: Bindings) -> Markup:
    """Return the picture as an SVG document of its own, which HTML may hold as it is."""
    left = [_cluster_box(node, plan, bindings) for node in plan.cluster_nodes]
    if plan.services:
        left.append(_services_box(plan, bindings))
    right = [_outside_box(node, bindings) for node in plan.nodes if node.placement == "outside"]
    left_width = max((box.width for box in left), default=0.0)
    bars, begin = {}, (_PAD + left_width + _GAP if left else _PAD)
    for network in _networks(plan):
        width = max(len(network), len(_cidr(plan, network))) * _CHAR + _PAD
        bars[network] = begin + width / 2
        begin += width
    right_begin = begin + _GAP
    width = right_begin + max((box.width for box in right), default=0.0) + _PAD
    height = _HEAD + max(sum(box.height + _GAP / 2 for box in side) for side in (left, right)) + _PAD
    parts = [_bar(network, _cidr(plan, network), x, height) for network, x in bars.items()]
    taken: list[float] = []
    for boxes, x, edge in ((left, float(_PAD), left_width), (right, right_begin, 0.0)):
        y = float(_HEAD)
        for box in boxes:
            for network, row in box.ports:
                at = _free(y + _baseline(row) - 4, taken)
                parts.append(_link(x + (edge and box.width), at, bars[network]))
            parts.append(_drawn(box, x, y))
            y += box.height + _GAP / 2
    return element(
        "svg",
        element("title", f"Topology of {plan.lab.lab}", id="topology-title"),
        element("desc", " ".join(_sentences(plan)), id="topology-desc"),
        element("style", Markup(_STYLE)),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        class_="topology",
        role="img",
        aria_labelledby="topology-title topology-desc",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )


def mermaid(plan: Plan, bindings: Bindings) -> str:
    """Return the picture as a Mermaid flowchart (mermaid.js.org), for pages that draw such text."""
    ids = {node.name: f"n{number}" for number, node in enumerate(plan.nodes)}
    networks = {network: f"net{number}" for number, network in enumerate(_networks(plan))}
    lines = ["flowchart LR", f"  accTitle: Topology of {plan.lab.lab}"]
    for network, name in networks.items():
        lines.append(f'  {name}(["{_quoted(network)}<br>{_quoted(_cidr(plan, network))}"])')
    for host in plan.cluster_nodes:
        lines.append(f'  subgraph {ids[host.name]}["{_quoted(_named(host, bindings))}"]')
        lines += [
            f'    {ids[pod.name]}["{_quoted(_named(pod, bindings))}"]'
            for pod in plan.pods
            if pod.host == host.name
        ]
        lines.append("  end")
    for node in plan.nodes:
        if node.placement == "outside":
            lines.append(f'  {ids[node.name]}["{_quoted(node.name)}<br>{_quoted(_kind(node))}"]')
        on = (*(network for network, _ in node.places), *_second(node))
        lines += [f"  {ids[node.name]} --- {networks[network]}" for network in on]
    for number, (name, service) in enumerate(plan.services.items()):
        lines.append(f'  svc{number}{{{{"{_quoted(f"{name}:{service.port}")}"}}}}')
        ends = (endpoint.rpartition(":")[0] or endpoint for endpoint in _endpoints(service, plan))
        lines += [f"  svc{number} -.-> {ids[end]}" for end in dict.fromkeys(ends)]
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


def _named(node: Node, bindings: Bindings) -> str:
    beside = " + sidecar" if "sidecar" in node.kinds else ""
    return f"{node.name}{beside} {bindings.address(node)}"


def _kind(node: Node) -> str:
    engine = getattr(node.spec, "engine", None)
    return " ".join(node.kinds) + (f" ({engine})" if engine else "")


def _cluster_box(node: Node, plan: Plan, bindings: Bindings) -> _Box:
    rows: list[str] = []
    ports = [(network, -1) for network, _ in node.on]
    for shim in node.shims:
        ports.append((shim.network, len(rows)))
        rows.append(f"{shim.name} {shim.network} {bindings.addresses[node.name, shim.network]}")
    for pod in plan.pods:
        if pod.host == node.name:
            rows.append(_named(pod, bindings))
            for network in _second(pod):
                ports.append((network, len(rows)))
                rows.append(f"  net1 {network} {bindings.second[pod.name]}")
    return _Box(_named(node, bindings), tuple(rows), tuple(ports))


def _second(pod: Node) -> Iterator[str]:
    """Yield the network of a pod's second interface, if it has one."""
    net1 = getattr(pod.spec, "net1", None)
    if net1 is not None:
        yield net1.network


def _outside_box(node: Node, bindings: Bindings) -> _Box:
    networks = [network for network, _ in node.on]
    rows = [_kind(node), *(f"{network} {bindings.addresses[node.name, network]}" for network in networks)]
    for name, server in getattr(node.spec, "virtual_servers", {}).items():
        rows.append(f"{name}: {server.listen} to {server.forward_to}")
    for pool, members in getattr(node.spec, "snat_pools", {}).items():
        rows.append(f"SNAT {pool}: {', '.join(map(str, members))}")
    return _Box(node.name, tuple(rows), tuple((network, 1 + row) for row, network in enumerate(networks)))


def _services_box(plan: Plan, bindings: Bindings) -> _Box:
    rows: list[str] = []
    for name, service in plan.services.items():
        rows.append(f"{name}:{service.port} {bindings.cluster_ips.get(name, '')}".rstrip())
        rows += [f"  to {endpoint}" for endpoint in _endpoints(service, plan)]
    return _Box("services", tuple(rows))


def _endpoints(service: Service, plan: Plan) -> Iterator[str]:
    """Yield a service's endpoints: pods that its selector means, or what the lab file says."""
    if service.selector is not None:
        for node in plan.pods:
            pod = node.pod
            labels = (pod.namespace, pod.workload) if pod else tuple(node.name.split("/"))
            if labels == (service.namespace, service.selector):
                yield node.name
    yield from service.endpoints


def _sentences(plan: Plan) -> Iterator[str]:
    """Yield the picture in words, for those who cannot see it."""
    for node in plan.nodes:
        if node.placement == "pod":
            continue
        pods = [pod.name for pod in plan.pods if pod.host == node.name]
        where = " and ".join(network for network, _ in node.places)
        yield f"{node.name} ({_kind(node)}) is on {where}{', with pods ' + ', '.join(pods) if pods else ''}."


def _free(y: float, taken: list[float]) -> float:
    """Return the first place at or below `y` where no other line is in the way, and take it."""
    while any(abs(y - other) < _APART for other in taken):
        y += 1
    taken.append(y)
    return y


def _baseline(row: int) -> float:
    """Return how far below a box's upper edge a row's text stands; the name is row -1."""
    return (row + 2) * _ROW - 3


def _drawn(box: _Box, x: float, y: float) -> Markup:
    rows = [
        element("text", row, x=f"{x + _PAD:.0f}", y=f"{y + _baseline(number):.0f}", style="white-space:pre")
        for number, row in enumerate(box.rows)
    ]
    frame = element(
        "rect",
        x=f"{x:.0f}",
        y=f"{y:.0f}",
        width=f"{box.width:.0f}",
        height=f"{box.height:.0f}",
        rx=6,
        class_="box",
    )
    name = element("text", box.name, x=f"{x + _PAD:.0f}", y=f"{y + _baseline(-1):.0f}", class_="name")
    return joined([frame, name, *rows])


def _bar(network: str, cidr: str, x: float, height: float) -> Markup:
    place = {"x": f"{x:.0f}", "text_anchor": "middle"}
    return joined(
        [
            element("text", network, y=_ROW, class_="name", **place),
            element("text", cidr, y=2 * _ROW - 3, **place),
            element(
                "line", x1=f"{x:.0f}", y1=_HEAD - 8, x2=f"{x:.0f}", y2=f"{height - _PAD:.0f}", class_="bar"
            ),
        ]
    )


def _link(x: float, y: float, bar: float) -> Markup:
    return joined(
        [
            element("line", x1=f"{x:.0f}", y1=f"{y:.0f}", x2=f"{bar:.0f}", y2=f"{y:.0f}", class_="link"),
            element("circle", cx=f"{bar:.0f}", cy=f"{y:.0f}", r=4, class_="dot"),
        ]
    )
