"""The house keeps its order: who may import whom, what lives where, and how large anything may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
HARNESS = ROOT / "harness"
LONGEST_MODULE = 320
DEEPEST = 2
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "tools_common"}

# From the ground up. A module imports only what stands in a line above its own; the modules of one line know
# nothing of each other, those of one package (programs, netlink, drivers/netns, drivers/fake) do. Imports for
# annotations only do not count: they need not exist when the program runs.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("netlink",),
    ("programs",),  # what runs inside nodes; embedded by drivers
    (
        "scalars",
        "lookup",
        "ready",
        "discovery",
        "scheduling",
        "identity",
        "binomial",
        "markup",
        "pod_link",
        "findings",
        "mutation",
        "generated",
    ),  # on their own feet
    ("tools", "source", "pcapng", "lab_words", "entry", "attacks"),
    ("labels",),
    ("egress_model", "policy_model", "pool_model", "dual_stack"),
    ("bpf", "lab_model", "shipped"),
    (
        "stream",
        "expect_model",
        "route_checks",
        "bgp_checks",
        "egress_checks",
        "istio_checks",
        "overlay_checks",
        "policy_checks",
    ),
    ("capture", "rotation_checks"),
    ("validation", "lab_checks", "scenario_model"),
    ("lab", "schema", "starter"),
    ("egress_ways", "graph_path", "capabilities"),
    ("scenario_names", "split_checks", "plan", "engine_choice"),
    ("routing_checks", "graph_boxes", "address_names", "network_policies", "attack_checks"),
    ("graph",),
    ("step_checks",),
    ("scenario_checks",),
    ("scenario",),
    ("routing",),
    ("evidence",),
    ("running",),  # the protocols of drivers and labs
    ("sightings",),
    ("proxy", "cel", "mariadb", "mtls", "bird", "sds", "policy_routing", "snat_ports"),
    ("engines",),
    ("nodes",),
    ("passport", "bigip"),
    ("denial", "verdict"),
    ("checks",),
    ("read_routing",),
    ("attempt", "steps"),
    ("load", "batches"),
    ("run",),
    ("exercised",),
    ("mutants_outside", "mutants_cluster", "mutants_policies"),
    ("mutants_mesh",),
    ("mutants", "mutate", "accepted"),
    ("rule_places", "listening"),
    ("stages",),
    ("one_flow",),
    ("ways_out", "learned"),
    ("explain", "report", "comparison", "run_diff", "correlation"),
    ("flow_path",),
    ("reports", "bypass"),
    ("agent",),  # from plans to what stands where nodes are; embedded by drivers
    ("drivers",),
    ("kernel", "hosts"),  # doctor's probes of the sandbox; testinfra's way into nodes
    ("docker_findings",),
    ("doctor",),
    ("bundle",),
    ("commands",),
    ("look", "look_packets", "held"),
    (
        "mtls_table",
        "look_stats",
        "why",
        "bypass_table",
        "mutate_table",
        "attack_lab",
        "coverage_table",
        "learn_file",
        "diff_table",
        "driver_table",
    ),
    ("command_line",),
    ("questions", "own_labs"),
    ("cli", "pytest_plugin"),  # the two doors
)

DOORS = {
    "subprocess": ("drivers/",),
    "docker": ("drivers/",),
    "kubernetes": ("drivers/",),
    "scapy": ("capture.py",),
    "trustme": ("identity.py",),
    "cryptography": ("identity.py",),
    "tenacity": ("ready.py",),
    "pytest": ("pytest_plugin.py",),
    "_pytest": ("pytest_plugin.py",),
    "testinfra": ("pytest_plugin.py", "held.py", "hosts.py"),
    "yaml": (
        "source.py",
        "drivers/k3d/manifest.py",
    ),  # manifests of others are several documents, written again
    "click": (
        "bypass_table.py",
        "cli.py",
        "driver_table.py",
        "command_line.py",
        "commands.py",
        "diff_table.py",
        "coverage_table.py",
        "learn_file.py",
        "look.py",
        "look_packets.py",
        "look_stats.py",
        "mutate_table.py",
        "mtls_table.py",
        "own_labs.py",
        "questions.py",
        "starter.py",
        "why.py",
    ),
    "rich": ("reports/",),
}
"""Who may import what; a folder stands for all in it."""

BESIDE_PROGRAMS = ("harness.netlink", "harness.errors")
"""Of the standard library only as well, and put beside the programs for the route controller."""

SLEEPERS = {
    "harness/programs/echo.py": "backs off when it is out of descriptors",
    "harness/programs/website.py": "backs off when it is out of descriptors",
    "tests/docker/test_nothing_left.py": "kills at random moments",
    "tests/live/test_kill.py": "kills at random moments",
}
"""Who may sleep, and why."""

MACHINE_PATHS = re.compile(rb"/(?:home|Users|work|mnt|root)/[A-Za-z0-9_-]|/tmp/(?:v|mine|ov)/")
THEIR_OWN_PATHS = {"/home/runner", "/home/circleci", "/home/you"}
"""Homes on the machines of CI services and of examples, which documents may speak of."""


@cache
def modules() -> dict[str, Path]:
    """Return every module of the harness by its dotted name below it; a package by its folder's."""
    found = {}
    for path in sorted(HARNESS.rglob("*.py")):
        parts = path.relative_to(HARNESS).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, *, top: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of a file's imports, those for annotations apart; `top`: not those in functions."""
    yield from _imports(tree_of(path).body, path, top=top)


def _imports(nodes: list[ast.stmt], path: Path, *, top: bool) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for name in _from(node, path))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node.orelse, path, top=top)
        elif not (top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from _imports(_below(node), path, top=top)


def _below(node: ast.stmt) -> list[ast.stmt]:
    """Return the statements within a statement: bodies, branches, handlers, cases."""
    parts = [
        node,
        *(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr | ast.stmt)),
    ]
    return [child for part in parts for child in ast.iter_child_nodes(part) if isinstance(child, ast.stmt)]


def _from(node: ast.ImportFrom, path: Path) -> Iterator[str]:
    """Yield what `from x import y` takes: the module x.y where that is one, else x."""
    base = node.module or ""
    if node.level:
        package = path.relative_to(ROOT).parts[: -node.level]
        base = ".".join([*package, *([node.module] if node.module else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        below = inner.removeprefix("harness.")
        yield inner if inner != below and below in modules() else base


def ours(path: Path, *, top: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, name below harness) of a file's imports of our own modules."""
    for line, name in imports(path, top=top):
        if name.startswith("harness."):
            yield line, name.removeprefix("harness.")


def layer_of(name: str) -> int:
    """Return the number of the line that a module stands in; raises KeyError."""
    for number, layer in enumerate(LAYERS):
        if name.partition(".")[0] in layer:
            return number
    raise KeyError(name)


def house_of(name: str) -> str:
    """Return whom a module belongs to: its package, of plugs each its own."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first in lookup.FOLDERS else first


def listed() -> list[Path]:
    """Return the files of the project: those that git knows and those that it would add."""
    argv = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in found.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", [name for name in modules() if name])
def test_imports_go_down(name: str) -> None:
    """A module imports from layers below its own and from its own package, never up and never sideways."""
    wrong = [
        f"{modules()[name].relative_to(ROOT)}:{line} imports {other}"
        for line, other in ours(modules()[name])
        if house_of(other) != house_of(name) and layer_of(other) >= layer_of(name)
    ]
    assert not wrong


def test_every_module_has_its_layer() -> None:
    """A new module is given its place in the list of layers, and a place without a module is taken away."""
    first = {name.split(".")[0] for name in modules() if name}
    placed = [name for layer in LAYERS for name in layer]
    assert first == set(placed)
    assert len(placed) == len(set(placed))


def test_plugs_do_not_know_each_other() -> None:
    """No kind imports another kind, no check another check, no driver another driver, no report another report."""
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for _, other in ours(path)
        if name.split(".")[0] in lookup.FOLDERS
        and other.split(".")[0] == name.split(".")[0]
        and house_of(other) != house_of(name)
        and other != name.split(".")[0]
    ]
    assert not wrong


def test_programs_import_the_standard_library_and_each_other_only() -> None:
    """What runs inside nodes runs under any Python: no package, and of ours its neighbours and the netlink codec."""
    wrong = [
        f"{path.name}:{line} imports {name}"
        for path in (HARNESS / "programs").glob("*.py")
        for line, name in imports(path)
        if not name.startswith(("harness.programs", "programs"))
        and name not in BESIDE_PROGRAMS
        and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert not wrong


@pytest.mark.parametrize("package", DOORS)
def test_each_heavy_package_has_one_door(package: str) -> None:
    """Packages that cost much, or that tie us to something, are imported behind their doors only."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules().values()
        for line, name in imports(path)
        if name.split(".")[0] == package
        and not path.relative_to(HARNESS).as_posix().startswith(DOORS[package])
    ]
    assert not wrong


def test_the_lab_process_has_one_child_table() -> None:
    """Nothing that the lab process loads imports `subprocess` or asyncio: a second reaper eats exit statuses."""
    loaded, waiting = set(), ["drivers.netns.first_process"]
    while waiting:
        name = waiting.pop()
        if name in loaded:
            continue
        loaded.add(name)
        names = {found for _, found in imports(modules()[name], top=True)}
        assert not names & {"subprocess", "asyncio", "asyncio.subprocess", "multiprocessing"}, name
        packages = [name.rpartition(".")[0]]
        waiting += [other for _, other in ours(modules()[name], top=True)]
        waiting += [package for package in packages if package]
    assert "agent.children" in loaded


def test_modules_stay_small() -> None:
    """A module fits one head: at most so many lines, at most two folders deep."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules().values()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_MODULE
    }
    deep = [name for name in modules() if name.count(".") > DEEPEST]
    assert not long
    assert not deep


def test_no_module_is_called_after_nothing() -> None:
    """A module's name says what it is about; `utils` and its like say that nobody knew."""
    paths = [*HARNESS.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    names = {part for path in paths for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & FORBIDDEN_NAMES


def test_nobody_sleeps() -> None:
    """Waits are named and end by their condition; who sleeps nevertheless is listed with the reason."""
    sleepers = set()
    for path in [*HARNESS.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
                sleepers.add(path.relative_to(ROOT).as_posix())
    assert sleepers <= set(SLEEPERS)


def test_no_mocks() -> None:
    """Tests run against real parts or against fakes that are tested themselves."""
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        for _, name in imports(path)
        if name in ("mock", "unittest.mock")
    ]
    assert not wrong


def test_every_test_says_what_it_shows() -> None:
    """Every test's docstring states the behaviour; its name alone does not."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not wrong


def test_nothing_tells_of_a_developers_machine() -> None:
    """No file of the project names a folder that exists on somebody's machine only."""
    wrong = []
    for path in listed():
        if path == Path(__file__):
            continue
        content = path.read_bytes()
        for found in MACHINE_PATHS.finditer(content):
            place = content[found.start() : found.start() + 40].decode(errors="replace")
            if not place.startswith(tuple(THEIR_OWN_PATHS)):
                line = content[: found.start()].count(b"\n") + 1
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {place!r}")
    assert not wrong


def test_only_lookup_imports_by_name() -> None:
    """The one dynamic import of our own modules is lookup's; elsewhere a reader finds what is used by its name."""
    wrong = []
    for path in modules().values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "importlib.import_module",
                "__import__",
            ):
                argument = ast.unparse(node.args[0])
                if path.name != "lookup.py" and "scapy" not in argument:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {argument}")
    assert not wrong


def test_the_rules_notice_a_breach(tmp_path: Path) -> None:
    """The reader of imports sees them at the top, in functions and relative, and not those for annotations."""
    text = (
        "from typing import TYPE_CHECKING\nimport json\n"
        "if TYPE_CHECKING:\n    import scapy\nelse:\n    import click\n"
        "def f():\n    import subprocess\n"
        "class C:\n    def g(self):\n        if True:\n            from harness.run import Session\n"
        "try:\n    pass\nexcept ImportError:\n    import os\n"
    )
    path = tmp_path / "x.py"
    path.write_text(text, encoding="utf-8")
    assert [name for _, name in imports(path)] == [
        "typing",
        "json",
        "click",
        "subprocess",
        "harness.run",
        "os",
    ]
    assert [name for _, name in imports(path, top=True)] == ["typing", "json", "click", "os"]
