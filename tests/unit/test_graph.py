"""The picture of a lab: all of it is there, nothing lies upon another thing, and any name is only text."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from small_tenants import LAB, plan_of

from harness import shipped
from harness.cli import main
from harness.drivers import fake
from harness.graph import mermaid, picture, svg
from harness.graph_path import Stop
from harness.lab import load_lab
from harness.plan import Bindings, Plan, make_plan

SVG = "{http://www.w3.org/2000/svg}"
LETTER = 12 * 0.602
"""Width of a letter of DejaVu Sans Mono, the widest of the usual monospaced fonts, at the picture's size."""

NASTY = """<script>alert(1)</script>"#;&'"""


def lab_of(name: str) -> tuple[Plan, Bindings]:
    """Return a shipped lab's plan with addresses."""
    plan = make_plan(load_lab(shipped.find_lab(name)))
    return plan, fake.binding(plan)


def renamed(old: str, new: str) -> tuple[Plan, Bindings]:
    """Return the small lab with another name for one of its nodes outside."""
    plan = plan_of()
    bindings = fake.binding(plan)
    nodes = tuple(replace(node, name=new) if node.name == old else node for node in plan.nodes)
    addresses = {(new if key[0] == old else key[0], key[1]): at for key, at in bindings.addresses.items()}
    return replace(plan, nodes=nodes), replace(bindings, addresses=addresses)


def number(found: ET.Element, key: str) -> float:
    """Return an attribute as a number."""
    return float(found.attrib[key])


@pytest.mark.parametrize("name", shipped.shipped_labs())
def test_a_picture_has_all_of_a_lab(name: str) -> None:
    """Each network, node, pod and service of a shipped lab stands in the SVG and in the Mermaid text."""
    plan, bindings = lab_of(name)
    texts = " ".join(found.text or "" for found in ET.fromstring(svg(plan, bindings)).iter(f"{SVG}text"))  # noqa: S314 - our own file
    words = [*plan.lab.networks, *(node.name for node in plan.nodes), *plan.services]
    assert [word for word in words if word not in texts] == []
    assert [word for word in words if word not in mermaid(plan, bindings)] == []


@pytest.mark.parametrize("name", shipped.shipped_labs())
def test_nothing_lies_upon_another_thing(name: str) -> None:
    """Boxes keep apart, each text stays in its box, networks' names keep apart, and so do lines; all is inside."""
    root = ET.fromstring(svg(*lab_of(name)))  # noqa: S314 - our own file
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = [
        (number(box, "x"), number(box, "y"), number(box, "width"), number(box, "height"))
        for box in root.iter(f"{SVG}rect")
    ]
    for one, other in combinations(boxes, 2):
        beside = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
        assert beside or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1]
    headings: list[tuple[float, float, float]] = []
    for text in root.iter(f"{SVG}text"):
        long, x, y = len(text.text or "") * LETTER, number(text, "x"), number(text, "y")
        if text.get("text-anchor") == "middle":
            headings.append((y, x - long / 2, x + long / 2))
        else:
            assert any(
                box[0] < x and x + long < box[0] + box[2] and box[1] < y < box[1] + box[3] for box in boxes
            ), text.text
    for upper, lower in combinations(headings, 2):
        assert upper[0] != lower[0] or upper[2] < lower[1] or lower[2] < upper[1]
    links = [number(line, "y1") for line in root.iter(f"{SVG}line") if line.get("class") == "lab-link"]
    for one_y, other_y in combinations(links, 2):
        assert abs(one_y - other_y) > 2 * 4, "two lines, or the dots at their ends, touch"
    assert all(x + wide <= width and y + high <= height for x, y, wide, high in boxes)


@pytest.mark.parametrize("name", shipped.shipped_labs())
def test_each_attachment_is_a_dot(name: str) -> None:
    """There is a dot for each place on a network: of nodes, their shims, and pods' second interfaces."""
    plan, bindings = lab_of(name)
    places = sum(len(node.places) for node in plan.nodes) + len(bindings.second)
    root = ET.fromstring(svg(plan, bindings))  # noqa: S314 - our own file
    assert len(list(root.iter(f"{SVG}circle"))) == places
    assert mermaid(plan, bindings).count(" --- ") == places


def test_a_picture_is_told_in_words() -> None:
    """Title and description are named by the picture, and say where each node is."""
    plan = plan_of()
    root = ET.fromstring(svg(plan, fake.binding(plan)))  # noqa: S314 - our own file
    title, description = root[0], root[1]
    assert (root.get("role"), root.get("aria-labelledby")) == (
        "img",
        f"{title.get('id')} {description.get('id')}",
    )
    assert title.text == "Topology of tenants"
    assert "firewall (firewall) is on dmz and internet." in (description.text or "")
    assert "server-0 (cluster-node) is on nodes, with pods kube-system/kube-dns" in (description.text or "")


def test_a_service_leads_to_its_endpoints() -> None:
    """A selector's pods, and the virtual server that a lab file names."""
    plan = plan_of()
    text = mermaid(plan, fake.binding(plan))
    ids = dict(re.findall(r"^ *(\w+)(?:\[|\{\{)+\"([\w./-]+)", text, re.MULTILINE))
    ends = {(ids[service], ids[end]) for service, end in re.findall(r"(svc\d+) -.-> (n\d+)", text)}
    assert ends == {
        ("red/proxy", "bigip"),
        ("red/shop", "red/shop-v1"),
        ("red/shop", "red/shop-v2"),
        ("kube-system/kube-dns", "kube-system/kube-dns"),
    }


def test_a_name_is_text_and_nothing_else() -> None:
    """Markup in a name comes back as the same text from the SVG, and as entities in a Mermaid label."""
    plan, bindings = renamed("site.example", NASTY)
    root = ET.fromstring(svg(plan, bindings))  # noqa: S314 - our own file
    assert NASTY in [text.text for text in root.iter(f"{SVG}text")]
    assert {found.tag.removeprefix(SVG) for found in root.iter()} == {
        "svg", "g", "title", "desc", "style", "text", "line", "circle", "rect",
    }  # fmt: skip
    (line,) = [line for line in mermaid(plan, bindings).splitlines() if "alert(1)" in line]
    assert "<script" not in line
    assert line.count('"') == 2


def test_a_lab_without_a_cluster_is_drawn_too() -> None:
    """Where nothing is to the left of the networks, the rest stands as ever."""
    text = re.sub(r"^cluster:.*?^outside:", "outside:", LAB, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^  bigip:.*?^  firewall:", "  firewall:", text, flags=re.MULTILINE | re.DOTALL)
    plan = plan_of(text.replace("from: snat/red", "from: dmz"))
    root = ET.fromstring(svg(plan, fake.binding(plan)))  # noqa: S314 - our own file
    assert len(list(root.iter(f"{SVG}rect"))) == 3


WAY = (
    Stop("red/client", "red/client", None, "10.53.0.2:4000 > 10.4.0.201:3128"),
    Stop("red/client sidecar", "red/client", None, ""),
    Stop("server-0", "server-0", None, ""),
    Stop("bigip", "bigip", "nodes", "by address translation 10.4.0.211:5000 > 10.4.0.3:80"),
    Stop("firewall", "firewall", "dmz", "said no by default", denied=True),
)


def test_a_way_leads_from_stop_to_stop() -> None:
    """Each leg joins its stops' boxes and runs along the network by which the flow came; ✗ marks who said no."""
    plan = plan_of()
    bindings = fake.binding(plan)
    root = ET.fromstring(svg(plan, bindings, WAY))  # noqa: S314 - our own file
    ground = picture(plan, bindings).ground
    legs = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in root.iter(f"{SVG}polyline")
    ]
    assert len(legs) == 3, "none for the sidecar, which is in the same row"
    for leg, (one, other), network in zip(legs[1:], (WAY[2:4], WAY[3:5]), ("nodes", "dmz"), strict=True):
        assert leg[0][1] == pytest.approx(ground.spots[one.node].y, abs=1)
        assert leg[-1][1] == pytest.approx(ground.spots[other.node].y, abs=1)
        assert leg[2][0] == leg[3][0] == pytest.approx(ground.bars[network], abs=6)
    groups = [group for group in root.iter(f"{SVG}g") if "lab-stop" in group.get("class", "")]
    marks = [group[1].text for group in groups]
    assert marks == ["1", "2", "3", "4", "✗"]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "4 bigip: by address translation 10.4.0.211:5000 > 10.4.0.3:80" in texts
    assert "5 ✗ firewall: said no by default" in texts
    assert "5 ✗ firewall" in (root[1].text or ""), "who cannot see it is told the same"
    assert "red/proxy:3128" not in " ".join(filter(None, texts)), "services are left out"


def test_a_second_interface_has_a_line_of_its_own() -> None:
    """A flow that leaves a pod by net1 is drawn from that row, and not by another pod's or by its node's."""
    plan, bindings = lab_of("spk-egress")
    ground = picture(plan, bindings).ground
    pods = list(bindings.second)
    lines = {ground.port(pod, "external2") for pod in pods}
    assert len(lines) == len(pods) > 1
    assert ground.port("worker-1", "external2") not in lines
    stops = (Stop(pods[0], pods[0], None, ""), Stop("spk", "spk", "external2", ""))
    root = ET.fromstring(svg(plan, bindings, stops))  # noqa: S314 - our own file
    (line,) = root.iter(f"{SVG}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights[1] == pytest.approx(ground.port(pods[0], "external2"), abs=1)


def test_a_stop_that_is_not_in_the_picture_is_told_only() -> None:
    """A pod that a step took away has no place; the way goes on from the next stop that has."""
    plan = plan_of()
    gone = Stop("red/gone", "red/gone", None, "seen")
    root = ET.fromstring(svg(plan, fake.binding(plan), (gone, *WAY[2:4])))  # noqa: S314 - our own file
    assert len(list(root.iter(f"{SVG}polyline"))) == 1
    assert "1 red/gone: seen" in [text.text for text in root.iter(f"{SVG}text")]


def test_mermaid_has_the_way_too() -> None:
    """Thick arrows from stop to stop, numbered as they arrive; who said no is marked; the stops follow as comments."""
    plan = plan_of()
    text = mermaid(plan, fake.binding(plan), WAY)
    ids = dict(re.findall(r"(\w+)\[\"([\w./-]+)", text))
    arrows = re.findall(r'(n\d+) ==>\|"(\d)"\| (n\d+)', text)
    assert [(ids[one], number, ids[other]) for one, number, other in arrows] == [
        ("red/client", "3", "server-0"),
        ("server-0", "4", "bigip"),
        ("bigip", "5", "firewall"),
    ]
    (marked,) = re.findall(r"class (n\d+) denied", text)
    assert ids[marked] == "firewall"
    assert "  %% 5 ✗ firewall: said no by default\n" in text


def test_through_needs_a_flow() -> None:
    """`--through` without `--flow` says so."""
    found = CliRunner().invoke(main, ["graph", "canary", "--through", "a:1"])
    assert found.exit_code == 2
    assert "--through belongs to --flow" in found.output


@pytest.mark.parametrize(("form", "begins"), [("svg", "<svg "), ("mermaid", "flowchart LR\n")])
def test_the_command_draws(form: str, begins: str) -> None:
    """`egresslab graph` prints the picture of a shipped lab in the form asked for."""
    found = CliRunner().invoke(main, ["graph", "canary", "--format", form], catch_exceptions=False)
    assert found.exit_code == 0
    assert found.output.startswith(begins)
