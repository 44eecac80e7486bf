"""A scenario file becomes cases: expanded, with their controls, checked against their lab."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.lab import Lab, load_lab
from harness.scenario import Item, load_scenarios

FILES = Path(__file__).parent / "files"
ALLOWED = "expect: {allowed: {path: [sidecar, bigip, firewall, tinyproxy]}}"


@pytest.fixture(scope="module")
def lab() -> Lab:
    """Return the lab of the dialect's own example."""
    return load_lab(FILES / "lab.yaml")


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    """Return the cases of the dialect's own example, which names its lab by a path."""
    return load_scenarios(FILES / "scenarios.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that holds nothing but the lab of the dialect's example."""
    shutil.copy(FILES / "lab.yaml", tmp_path)
    return tmp_path


def write(folder: Path, *scenarios: str, name: str = "s.yaml", head: str = "lab: lab.yaml") -> Path:
    """Write a scenario file; each scenario is the inside of one flow mapping."""
    path = folder / name
    entries = "".join(f"  - {{{scenario}}}\n" for scenario in scenarios)
    path.write_text(f"{head}\nscenarios:\n{entries}", encoding="utf-8")
    return path


def complaints(path: Path, lab: Lab | None = None) -> list[str]:
    """Return what is wrong with a scenario file, without its folder."""
    with pytest.raises(InputError) as caught:
        load_scenarios(path, lab)
    return [str(problem).removeprefix(f"{path.parent}/") for problem in caught.value.problems]


def test_ids(items: tuple[Item, ...]) -> None:
    """A case is called by its scenario, and by what varies where one scenario stands for several."""
    assert [item.id for item in items] == [
        "bookinfo reaches the internet from its own address",
        "another namespace is reset by the proxy",
        "no pod goes round the proxy [bookinfo/productpage]",
        "no pod goes round the proxy [bookinfo/reviews-v1]",
        "no pod goes round the proxy [bookinfo/reviews-v2]",
        "no pod goes round the proxy [bookinfo/reviews-v3]",
        "no pod goes round the proxy [bookinfo/traffic-generator]",
        "no pod goes round the proxy [sm-apigw-a/nettools]",
        "no pod goes round the proxy [sm-apigw-a/bare-v1]",
        "without the proxy the firewall cannot tell two tenants apart [bookinfo/traffic-generator]",
        "without the proxy the firewall cannot tell two tenants apart [sm-apigw-a/nettools]",
        "sites by both names [https://www.f5.com, bigip-proxy-svc:3128]",
        "sites by both names [https://devcentral.f5.com/status/200, bigip-proxy-svc:3128]",
        "a denial that may come from anywhere",
    ]


def test_place(items: tuple[Item, ...]) -> None:
    """A case knows the file and the line of its scenario."""
    assert {item.path for item in items} == {str(FILES / "scenarios.yaml")}
    lines = (FILES / "scenarios.yaml").read_text(encoding="utf-8").splitlines()
    assert all(item.scenario.name in lines[item.line - 1] for item in items)


def test_matrix(items: tuple[Item, ...]) -> None:
    """Every combination of the matrix is a case with its own source, target and proxy."""
    found = [
        (item.source, item.to, item.through) for item in items if item.scenario.name == "sites by both names"
    ]
    assert found == [
        ("bookinfo/traffic-generator", "https://www.f5.com", "bigip-proxy-svc:3128"),
        ("bookinfo/traffic-generator", "https://devcentral.f5.com/status/200", "bigip-proxy-svc:3128"),
    ]


def test_defaults(items: tuple[Item, ...]) -> None:
    """What the file says for all holds where a scenario says nothing; `within` never holds for a denial."""
    found = {item.scenario.name: (item.scenario.within, item.scenario.stable) for item in items}
    assert found["bookinfo reaches the internet from its own address"] == ("5s", 2)
    assert found["another namespace is reset by the proxy"] == (None, 2)
    assert found["sites by both names"] == ("500ms", 1)


def test_controls(items: tuple[Item, ...]) -> None:
    """A denial carries every case of its control."""
    found = {item.scenario.name: [control.id for control in item.controls] for item in items}
    assert found["no pod goes round the proxy"] == ["bookinfo reaches the internet from its own address"]
    assert len(found["a denial that may come from anywhere"]) == 2
    assert found["bookinfo reaches the internet from its own address"] == []


def test_outcome_with_nothing_after_it(items: tuple[Item, ...]) -> None:
    """`allowed:` says all there is to say when nothing more is asked for."""
    scenario = next(item.scenario for item in items if item.scenario.name == "sites by both names")
    assert scenario.expect.allowed is not None
    assert scenario.expect.rejected is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("bookinfo/reviews-*", ["bookinfo/reviews-v1", "bookinfo/reviews-v2", "bookinfo/reviews-v3"]),
        ("'*/nettools'", ["sm-apigw-a/nettools"]),
        ("[sm-apigw-a/nettools, sm-apigw-a/*]", ["sm-apigw-a/nettools", "sm-apigw-a/bare-v1"]),
        ("bookinfo/productpage", ["bookinfo/productpage"]),
    ],
)
def test_globs(pattern: str, expected: list[str], folder: Path, lab: Lab) -> None:
    """A star stands for any text; each pod is one case, however often it is meant."""
    path = write(folder, f"name: a, from: {pattern}, to: 'https://www.f5.com', expect: {{allowed: }}")
    assert [item.source for item in load_scenarios(path, lab)] == expected


def test_a_glob_of_one_pod_keeps_its_id(folder: Path) -> None:
    """A glob that means one pod today gives the id that it will have when there are more."""
    path = write(folder, "name: a, from: '*/nettools', to: 'https://www.f5.com', expect: {allowed: }")
    assert [item.id for item in load_scenarios(path)] == ["a [sm-apigw-a/nettools]"]


@pytest.mark.parametrize(
    "host",
    [
        "bigip-proxy-svc",
        "bigip-proxy-svc.bookinfo",
        "bigip-proxy-svc.bookinfo.svc",
        "bigip-proxy-svc.bookinfo.svc.cluster.local",
        "reviews",
        "tinyproxy",
        "www.f5.com",
    ],
)
def test_hosts(host: str, folder: Path, lab: Lab) -> None:
    """A host is an outside node, or a service by any name that Kubernetes' DNS gives it."""
    path = write(
        folder, f"name: a, from: bookinfo/productpage, to: 'http://{host}:80', expect: {{allowed: }}"
    )
    assert len(load_scenarios(path, lab)) == 1


def test_control_in_another_file(folder: Path) -> None:
    """A control may stand in another scenario file of the same folder and lab."""
    write(folder, f"name: yes, from: bookinfo/productpage, run: curl x, {ALLOWED}", name="other.yaml")
    denied = (
        "name: no, from: sm-apigw-a/nettools, run: curl x, control: yes,"
        " expect: {rejected: {at: bigip, unseen_by: firewall}}"
    )
    (item,) = load_scenarios(write(folder, denied))
    assert [control.path for control in item.controls] == [str(folder / "other.yaml")]


def test_control_of_another_lab(folder: Path) -> None:
    """A scenario of another lab is no control, though it is in the same folder."""
    (folder / "second.yaml").write_bytes((folder / "lab.yaml").read_bytes())
    scenario = f"name: yes, from: bookinfo/productpage, run: curl x, {ALLOWED}"
    write(folder, scenario, name="other.yaml", head="lab: second.yaml")
    denied = "name: no, from: sm-apigw-a/nettools, run: curl x, control: yes, expect: {rejected: {at: any}}"
    assert complaints(write(folder, denied)) == ["s.yaml:3:65: unknown scenario 'yes'; known: none"]


def test_one_name_in_two_files(folder: Path) -> None:
    """Names are unique among the files for one lab, since controls go by them; the other file is named."""
    scenario = "name: a, from: bookinfo/productpage, run: curl x, expect: {allowed: }"
    write(folder, scenario, name="other.yaml")
    assert complaints(write(folder, scenario)) == [
        f"s.yaml:3:12: scenario 'a' is there already, in {folder / 'other.yaml'}"
    ]


def test_a_broken_neighbour_is_its_own_affair(folder: Path) -> None:
    """What is wrong with another file of the folder is said when that file is loaded."""
    write(folder, "name: a, from: [", name="broken.yaml")
    path = write(folder, "name: b, from: bookinfo/productpage, run: curl x, expect: {allowed: }")
    assert [item.id for item in load_scenarios(path)] == ["b"]
    assert complaints(folder / "broken.yaml")


def test_no_complaint_about_a_control_that_is_itself_refused(folder: Path) -> None:
    """A control with a mistake in it is not also unknown."""
    path = write(
        folder,
        "name: yes, from: bookinfo/productpage, run: 'curl \"', expect: {allowed: }, typo: 1",
        "name: no, from: sm-apigw-a/nettools, run: curl x, control: yes, expect: {rejected: {at: any}}",
    )
    assert [line.partition(" ")[0] for line in complaints(path)] == ["s.yaml:3:50:", "s.yaml:3:81:"]


@pytest.mark.parametrize(
    "text",
    ["", "# scenarios\n", "- scenarios\n", "kind: Pod\n", "a: {scenarios: []}\n", "a: 1\n---\nb: {{ x }}\n"],
)
def test_other_yaml_is_ignored(text: str, tmp_path: Path) -> None:
    """YAML that has no `scenarios` at its top is no scenario file, whatever else it is."""
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_scenarios(path) == ()


def test_wrong_encoding_is_not_ignored(folder: Path) -> None:
    """A scenario file in another encoding is refused, not passed over in silence."""
    path = write(folder, "name: a, from: bookinfo/productpage, run: curl x, expect: {allowed: }")
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    assert complaints(path) == ["s.yaml:1:1: encoded as UTF-16; save the file as UTF-8"]


def test_problems_of_lab_and_scenarios_together(folder: Path) -> None:
    """When the lab is wrong too, both files' problems are told at once."""
    (folder / "lab.yaml").write_text("lab: x\nnetworks: {a: {cidr: 10.0.0.0/8}}\nmore: 1\n", encoding="utf-8")
    found = complaints(write(folder, "name: a, form: x, expect: {allowed: }"))
    assert [line.partition("; known")[0] for line in found] == [
        "lab.yaml:3:1: unknown key 'more'",
        "s.yaml:3:15: unknown key 'form' in scenarios[0]",
    ]


def test_unknown_lab(folder: Path) -> None:
    """A lab that is neither shipped nor a file is complained of where it is named."""
    (found,) = complaints(
        write(folder, "name: a, from: x/y, run: curl, expect: {allowed: }", head="lab: bookinfo-egres")
    )
    assert found.startswith("s.yaml:1:6: 'bookinfo-egres' is neither a shipped lab nor a lab file; known: ")


def test_packet_fields(folder: Path, lab: Lab) -> None:
    """Field names are asked of whoever knows packets, and what that one says is wrong is complained of."""

    def check_field(name: str) -> None:
        if name != "IP.ttl":
            raise ValueError(f"no field {name!r}")

    packets = "packets: {at: bigip.nodes, fields: {IP.ttl: 62, IP.tll: 62}}"
    path = write(
        folder,
        "name: a, from: bookinfo/productpage, run: curl x, expect: {allowed: {"
        + packets.replace("{at", "[{at").replace("62}}", "62}}]")
        + "}}",
    )
    with pytest.raises(InputError, match=r":3:.*: no field 'IP\.tll'"):
        load_scenarios(path, lab, check_field)
    with pytest.raises(InputError, match=r"scapy's layer IP has no field 'tll'"):
        load_scenarios(path, lab)


def test_explicit_any_is_needed_to_leave_the_hop_open(folder: Path, lab: Lab) -> None:
    """A denial that does not say where is refused; `at: any` says that it does not matter."""
    start = "name: a, from: bookinfo/productpage, run: curl x, expect: "
    (found,) = complaints(write(folder, start + "{dropped: {}}"), lab)
    assert found.endswith("missing key 'at' in scenarios[0].expect.dropped")
    assert len(load_scenarios(write(folder, start + "{dropped: {at: any}}"), lab)) == 1


def test_a_control_of_an_allowed_flow(folder: Path, lab: Lab) -> None:
    """An allowed flow may have a control as well, and that one another."""
    path = write(
        folder,
        f"name: a, from: bookinfo/productpage, run: curl a, {ALLOWED}",
        f"name: b, from: bookinfo/productpage, run: curl b, control: a, {ALLOWED}",
        "name: c, from: bookinfo/productpage, run: curl c, control: b, expect: {rejected: {at: bigip}}",
    )
    last = load_scenarios(path, lab)[-1]
    assert [control.id for control in last.controls] == ["b"]
    assert [control.id for control in last.controls[0].controls] == ["a"]
