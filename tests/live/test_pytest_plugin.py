"""pytest run on scenario files: outcomes, selection, workers, errors of input, and what is left when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import COMMAND_SECONDS, ENVIRONMENT, PYTEST, egresslab

from harness import ready, starter
from harness.drivers import netns
from harness.lab import load_lab
from harness.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.live

NAME = f"starter{os.getpid()}"
"""Of the lab; these tests may run twice at a time, as two users."""

CLEAN = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("PYTEST_")}
"""The environment, without what the pytest that runs us says of itself."""

LAB = starter.LAB.replace("NAME", NAME).replace("networks:", "article: 3\nnetworks:", 1)
SCENARIOS = """\
lab: lab.yaml
scenarios:
  - name: the shop gets out
    labels: [smoke]
    from: shop/client
    run: curl -sS http://exit.shop
    expect: {allowed: {path: [proxy, firewall], source: {at: www.example.com, is: snat/shop}}}
  - name: the shop gets out as its node
    from: shop/client
    run: curl -sS http://exit.shop
    expect: {allowed: {path: [proxy, firewall], source: {at: www.example.com, is: node}}}
  - name: another tenant is reset
    from: other/client
    run: curl -sS http://exit.shop
    control: the shop gets out
    expect: {rejected: {at: proxy, by: shop-only, unseen_by: [firewall]}}
  - name: another tenant is reset, on a control that is broken
    from: other/client
    run: curl -sS http://exit.shop
    control: the shop gets out as its node
    expect: {rejected: {at: proxy, by: shop-only, unseen_by: [firewall]}}
"""


@dataclass(frozen=True)
class Ran:
    """How a run of pytest ended: its exit code, its counts by outcome, and what it printed."""

    code: int
    counts: dict[str, int]
    lines: list[str]

    @property
    def shown(self) -> pytest.LineMatcher:
        """What it printed, to be matched line by line."""
        return pytest.LineMatcher(self.lines)


@pytest.fixture
def scenarios(tmp_path: Path) -> Path:
    """Write a small lab and its scenarios, of which one each is broken and unknown; return their folder."""
    return write(tmp_path / "first", NAME)


def write(folder: Path, name: str) -> Path:
    """Write the lab under a name, with its scenarios."""
    folder.mkdir()
    (folder / "lab.yaml").write_text(LAB.replace(NAME, name), encoding="utf-8")
    (folder / "flows.yaml").write_text(SCENARIOS, encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """Run pytest in a process of its own, in the test's folder.

    Not by pytester: that takes back what was imported while a test ran, and leaves later tests with two of each
    class.
    """

    def call(*arguments: str | Path) -> Ran:
        argv = [*PYTEST, "--strict-markers", *map(str, arguments)]
        ended = subprocess.run(
            argv,
            cwd=tmp_path,
            env=CLEAN,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert not labs()
        lines = ended.stdout.splitlines()
        return Ran(ended.returncode, pytest.RunResult.parse_summary_nouns(lines), lines)

    return call


def labs() -> list[str]:
    """Return the labs that pytest stood up and that still are, and the processes that bear their names."""
    up = [lab for lab in netns.running() if re.fullmatch(rf"{NAME}b?-[0-9.]+", lab)]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        up += [word for word in argv if re.fullmatch(rf"{NAME}b?-[0-9.]+", word)]
    return up


def test_verdicts_are_outcomes(scenarios: Path, run: Callable[..., Ran]) -> None:
    """Held passes, broken fails, unknown is an error; each says why in our words, without a traceback."""
    result = run("-rA", "--tb=long", scenarios)
    assert result.counts == {"passed": 2, "failed": 1, "errors": 1}
    result.shown.fnmatch_lines(
        [
            "*ERROR at setup of another tenant is reset, on a control that is broken*",
            "other/client: control: expected the control 'the shop gets out as its node' held",
            "*the shop gets out as its node*",
            "www.example.com: source: expected source node *",
            "    seen: *10.4.0.20*",
            "passport:",
            f"egresslab: {NAME}: 2 held, 1 broken, 1 unknown; files in out/{NAME}/*",
        ]
    )
    assert "Traceback" not in str(result.shown)
    assert "harness/" not in str(result.shown)


def test_reports_are_written(scenarios: Path, run: Callable[..., Ran]) -> None:
    """A run writes the files that `egresslab test` writes, with `latest` pointing to them."""
    run("--egresslab-out", "reports", "-k", "gets and not node", scenarios)
    latest = scenarios.parent / f"reports/{NAME}/latest"
    assert {path.name for path in latest.iterdir()} >= {"junit.xml", "flows.jsonl", "capture.pcapng"}
    head, flow = (json.loads(line) for line in (latest / "flows.jsonl").read_text().splitlines())
    assert head["counts"] == {"held": 1, "broken": 0, "unknown": 0}
    assert flow["id"] == "the shop gets out"


def test_a_denial_alone_runs_its_control(scenarios: Path, run: Callable[..., Ran]) -> None:
    """A denial that is selected alone is judged after its control, which is not reported."""
    assert run("-k", "reset and not control", scenarios).counts == {"passed": 1, "deselected": 3}
    assert run("-k", "reset and control", scenarios).counts == {"errors": 1, "deselected": 3}


def test_one_case_by_its_id(scenarios: Path, run: Callable[..., Ran]) -> None:
    """A case can be named as pytest names tests, and its file found from outside its folder."""
    assert run(f"{scenarios}/flows.yaml::another tenant is reset").counts == {"passed": 1}


def test_first_failure_stops(scenarios: Path, run: Callable[..., Ran]) -> None:
    """With -x nothing runs after the first case that is not held, and the lab is taken down."""
    assert run("-x", scenarios).counts == {"passed": 1, "failed": 1}


def test_labels_are_markers(scenarios: Path, run: Callable[..., Ran]) -> None:
    """Labels and the article's number select, under --strict-markers, and tests in Python may bear them too."""
    (scenarios / "test_own.py").write_text(
        "import pytest\n@pytest.mark.smoke\ndef test_own():\n    pass\n", encoding="utf-8"
    )
    assert run("-m", "smoke", scenarios).counts == {"passed": 2, "deselected": 3}
    assert run("-m", "article-3 and not smoke", "-k", "not broken and not node", scenarios).counts == {
        "passed": 1,
        "deselected": 4,
    }


def test_workers_have_a_lab_each(scenarios: Path, run: Callable[..., Ran]) -> None:
    """With xdist each lab's cases go to one worker, where it stands once; every run is reported."""
    second = write(scenarios.parent / "second", f"{NAME}b")
    result = run("-n", "2", "-v", "-k", "not broken and not node", scenarios, second)
    assert result.counts == {"passed": 4}
    workers = dict[str, set[str]]()
    for worker, folder in re.findall(r"\[(gw\d)\].*PASSED (\w+)/flows.yaml", str(result.shown)):
        workers.setdefault(folder, set()).add(worker)
    assert {len(found) for found in workers.values()} == {1}
    result.shown.fnmatch_lines_random([f"egresslab: {NAME}: 2 held; *", f"egresslab: {NAME}b: 2 held; *"])


def test_errors_of_a_file_are_collection_errors(scenarios: Path, run: Callable[..., Ran]) -> None:
    """What is wrong with a file is shown in our own lines, all of them, and nothing is started."""
    file = scenarios / "flows.yaml"
    file.write_text(
        SCENARIOS.replace("snat/shop", "snat/stop").replace("is: node", "is: nod"), encoding="utf-8"
    )
    result = run(scenarios)
    assert result.counts == {"errors": 1}
    shown = [line for line in result.lines if line.startswith("first/")]
    assert [line.split(": ")[0] for line in shown] == ["first/flows.yaml:7:83", "first/flows.yaml:11:83"]
    assert "Traceback" not in str(result.shown)
    assert not (scenarios.parent / "out").exists()


def test_an_error_of_the_lab_file_is_shown(scenarios: Path, run: Callable[..., Ran]) -> None:
    """So is what is wrong with the lab that a scenario file names."""
    (scenarios / "lab.yaml").write_text(LAB.replace("mesh:", "mess:"), encoding="utf-8")
    result = run(scenarios)
    assert result.counts == {"errors": 1}
    result.shown.fnmatch_lines(["*lab.yaml:*:1: *mess*"])


def test_a_lab_that_does_not_come_up(scenarios: Path, run: Callable[..., Ran]) -> None:
    """Every case of a lab that cannot stand is an error with the lab's sentence; it is tried once."""
    result = run("--egresslab-driver", "nest", scenarios)
    assert result.counts == {"errors": 4}
    result.shown.fnmatch_lines(["unknown driver 'nest'; known: *"])


def test_other_peoples_files(tmp_path: Path, run: Callable[..., Ran]) -> None:
    """A plain pytest in another project passes over its YAML, and loads nothing heavy of ours."""
    (tmp_path / "load.yaml").write_text("config: {}\nscenarios:\n  - flow: []\n", encoding="utf-8")
    (tmp_path / "chart.yaml").write_text("{{ if .Values }}\n", encoding="utf-8")
    heavy = {"pydantic", "yaml", "cryptography", "scapy", "testinfra", "click"}
    (tmp_path / "test_light.py").write_text(
        f"import sys\ndef test_light():\n    assert not {heavy} & set(sys.modules)\n", encoding="utf-8"
    )
    assert run("-p", "no:pytest11.testinfra", "-p", "no:hypothesispytest").counts == {"passed": 1}


@pytest.fixture
def standing(scenarios: Path) -> Iterator[None]:
    """Keep the small lab up, by its own name, while a test runs."""
    path = scenarios / "lab.yaml"
    lab = netns.up(make_plan(load_lab(path)), NAME, (str(path), path.read_text()), owned=True)
    yield
    lab.close()


@pytest.mark.usefixtures("standing")
def test_a_lab_that_is_up_is_used(scenarios: Path, run: Callable[..., Ran]) -> None:
    """A lab that is up by the name in its file is used and stays; one of another text is an error."""
    denial = ("-k", "reset and not control", scenarios)
    assert run(*denial).counts == {"passed": 1, "deselected": 3}
    assert NAME in netns.running()
    (scenarios / "lab.yaml").write_text(LAB + "# changed\n", encoding="utf-8")
    result = run(*denial)
    assert result.counts == {"errors": 1, "deselected": 3}
    result.shown.fnmatch_lines([f"*lab.yaml: the lab '{NAME}' that is up was made from another version*"])
    assert NAME in netns.running()


def test_fixtures_for_users(scenarios: Path, run: Callable[..., Ran]) -> None:
    """`egresslab` gives labs, `host` their nodes; both share the lab with the scenarios beside them."""
    (scenarios / "test_own.py").write_text(
        """
import pytest
LAB = __file__.replace("test_own.py", "lab.yaml")
pytestmark = pytest.mark.egresslab(LAB)
def test_lab(egresslab):
    assert egresslab(LAB).host("firewall").interface("eth0").exists
    assert "-" in egresslab(LAB).running.name
@pytest.mark.parametrize("host", ["proxy", "shop/client"], indirect=True)
def test_host(host):
    assert host.run("true").succeeded
@pytest.mark.parametrize("host", ["prox"], indirect=True)
def test_unknown(host):
    pass
def test_no_lab(egresslab):
    egresslab("bookinfo-egres")
""",
        encoding="utf-8",
    )
    result = run("-p", "no:pytest11.testinfra", "-k", "test_ or smoke", scenarios)
    assert result.counts == {"passed": 4, "errors": 1, "failed": 1, "deselected": 3}
    result.shown.fnmatch_lines(["no pod or node 'prox' in lab *did you mean 'proxy'*"])
    result.shown.fnmatch_lines(
        ["'bookinfo-egres' is neither a shipped lab nor *did you mean 'bookinfo-egress'*"]
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_pytest_leaves_nothing(scenarios: Path, number: signal.Signals) -> None:
    """However pytest ends while its lab stands, the lab and every process of it are gone within 2 seconds."""
    (scenarios / "flows.yaml").write_text(
        SCENARIOS.replace("curl -sS http://exit.shop", "sleep 15"), encoding="utf-8"
    )
    argv = [*PYTEST, "-q", str(scenarios)]
    with subprocess.Popen(  # a job in the background is started deaf to SIGINT, and so are we then
        argv,
        cwd=scenarios,
        env=CLEAN,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        name = f"{NAME}-{process.pid}"
        look = ("exec", "--lab", name, "firewall", "--", "ps", "-eo", "args=")
        ready.until("a flow", lambda: "\nsleep 15\n" in egresslab(*look).stdout, seconds=COMMAND_SECONDS)
        process.send_signal(number)
        process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode in {2, -number}
    ready.until("nothing of the lab", lambda: not labs(), seconds=2)
