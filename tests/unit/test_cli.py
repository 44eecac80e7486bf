"""The command line, on the fake driver: what it prints, how it ends, and what it does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from judged_flows import printing
from recorded_flows import BEGUN, Story, allowed, dropped, rejected
from small_tenants import LAB, SCENARIOS, plan_of, written

from harness import attempt
from harness.cli import main
from harness.drivers import fake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from small_tenants import Files

    from harness.drivers.fake import Recording

HEAVY = (
    "scapy",
    "pydantic",
    "rich",
    "cryptography",
    "trustme",
    "asyncio",
    "yaml",
    "tenacity",
    "docker",
    "kubernetes",
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Return the small lab and its scenarios as files in the working folder."""
    monkeypatch.chdir(tmp_path)
    # what never comes is waited for only as long as a test has patience
    monkeypatch.setattr(attempt, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(attempt, "ACCOUNT_SECONDS", 0.05)
    return written(tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_up() -> Iterator[None]:
    """Take every fake lab down afterwards."""
    with fake.playing():
        yield


def recordings() -> list[Recording]:
    """Return recordings on which every scenario of the small lab holds."""
    plan = plan_of()
    bindings = fake.binding(plan)
    tellings = (allowed, rejected, dropped)
    return [tell(Story(plan, bindings, BEGUN + number * 10**9)) for number, tell in enumerate(tellings)]


def egresslab(*words: object, playing: list[Recording] | None = None) -> Result:
    """Run the command line with the fake driver and these recordings."""
    with fake.playing(*(recordings() if playing is None else playing)):
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_all_held(files: Files) -> None:
    """Every scenario of a file runs, each is printed with its verdict, and the exit code is 0."""
    found = egresslab("test", files.scenarios, "--driver", "fake")
    assert found.exit_code == 0, found.output
    for name in files.items:
        assert any("held" in line and name in line for line in found.output.splitlines())
    assert "3 held in" in found.output


def test_files_are_written(files: Files) -> None:
    """The run's files lie below --out, under the lab's name, with the driver's name in them."""
    egresslab("test", files.scenarios, "--driver", "fake", "--out", "results")
    head, *flows = (
        (files.lab.parent / "results/tenants/latest/flows.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert json.loads(head)["driver"] == "fake"
    assert [json.loads(flow)["id"] for flow in flows] == list(files.items)


def test_broken(files: Files) -> None:
    """A flow that was let through where it should not be ends with 1, and hop, expectation and sight are printed."""
    first, blue, probe = recordings()
    served = printing(blue, "HTTP/1.1 200 OK\n")
    found = egresslab("test", files.scenarios, "--driver", "fake", playing=[first, served, probe])
    assert found.exit_code == 1
    assert "expected exit status 56" in found.output
    assert "passport:" in found.output
    assert f"in {files.scenarios}" in found.output


def test_unknown(files: Files) -> None:
    """Lost evidence ends with 3."""
    first, blue, probe = recordings()
    blind = replace(blue, blind=("firewall.dmz",))
    found = egresslab("test", files.scenarios, "--driver", "fake", playing=[first, blind, probe])
    assert found.exit_code == 3
    assert "the tap firewall.dmz is blind" in found.output


def test_a_control_that_fails_leaves_its_denials_unknown(files: Files) -> None:
    """A denial proves nothing where the allowed flow does not pass either: it is not even tried."""
    first, blue, probe = recordings()
    found = egresslab(
        "test",
        files.scenarios,
        "--driver",
        "fake",
        "-k",
        "blue is reset",
        playing=[printing(first, "", code=7), blue, probe],
    )
    assert found.exit_code == 3
    assert "the control 'red is let out' held" in found.output


def test_nothing_selected(files: Files) -> None:
    """A selection that selects nothing ends with 5 and starts no lab."""
    found = egresslab("test", files.scenarios, "--driver", "fake", "-k", "no such words")
    assert (found.exit_code, found.output) == (5, "tenants: nothing selected\n")


def test_selecting(files: Files) -> None:
    """`-k` selects by words of the id, `-m` by label."""
    by_words = egresslab("test", files.scenarios, "--driver", "fake", "-k", "goes round")
    assert "1 held in" in by_words.output
    by_label = egresslab("test", files.scenarios, "--driver", "fake", "-m", "smoke")
    assert "1 held in" in by_label.output


def test_unusable_input(files: Files) -> None:
    """A wrong file ends with 2: each problem is a line with its place, no lab is started, no traceback shown."""
    files.scenarios.write_text(SCENARIOS.replace("at: bigip", "at: bigpi"), encoding="utf-8")
    found = egresslab("test", files.scenarios, "--driver", "fake")
    assert found.exit_code == 2
    assert all(line.startswith(f"egresslab: {files.scenarios}:") for line in found.stderr.splitlines())
    assert "did you mean 'bigip'?" in found.stderr
    assert fake.running() == ()


def test_a_lab_that_goes_away(files: Files) -> None:
    """A lab that dies under the test ends with 4 and a sentence."""
    found = egresslab("test", files.scenarios, "--driver", "fake", playing=[])
    assert (found.exit_code, found.stderr) == (4, "egresslab: no command was recorded for 'red/client'\n")
    assert fake.running() == ()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("test", "nowhere.yaml"), "nowhere.yaml: no such file or folder"),
        (("test", "--lab", "bookinfo-egres"), "did you mean 'bookinfo-egress'?"),
        (("test", "--driver", "nets"), "unknown driver 'nets'; known: fake, k3d, netns"),
        (("test", "--engine", "nginx"), "unknown engine 'nginx'"),
    ],
)
def test_unusable_words(files: Files, words: tuple[str, ...], sentence: str) -> None:
    """A path, lab, driver or engine that there is not ends with 2 and says what there is."""
    found = egresslab(*words, *(() if "--driver" in words else ("--driver", "fake")))
    assert found.exit_code == 2, files
    assert sentence in found.stderr


@pytest.mark.parametrize("words", [("nonsense",), ("test", "--nonsense"), ("get", "nonsense")])
def test_unusable_options(words: tuple[str, ...]) -> None:
    """What click refuses ends with 2 as well."""
    assert egresslab(*words).exit_code == 2


def test_up_ls_down(files: Files) -> None:
    """A lab that is stood up stays until it is taken down, beside a second copy by another name."""
    with fake.playing(*recordings()):
        run = CliRunner().invoke
        assert run(main, ["up", str(files.lab), "--driver", "fake"]).output.startswith(
            "lab tenants is up after"
        )
        assert run(main, ["up", str(files.lab), "--name", "copy", "--driver", "fake"]).exit_code == 0
        assert run(main, ["ls", "--driver", "fake"]).output == "tenants\ncopy\n"
        ambiguous = run(main, ["get", "pods", "--driver", "fake"])
        assert (ambiguous.exit_code, ambiguous.stderr) == (
            4,
            "egresslab: several labs are up (tenants, copy); say which with --lab or EGRESSLAB_LAB\n",
        )
        assert run(main, ["down", "copy", "--driver", "fake"]).output == "lab copy is down\n"
        assert run(main, ["down", "--driver", "fake"]).output == "lab tenants is down\n"
        assert run(main, ["ls", "--driver", "fake"]).output == ""


def test_a_test_uses_the_lab_that_is_up(files: Files) -> None:
    """Scenarios run on the lab of that name when it is up, and leave it up."""
    with fake.playing(*recordings()):
        run = CliRunner().invoke
        run(main, ["up", str(files.lab), "--driver", "fake"])
        assert run(main, ["test", str(files.scenarios), "--driver", "fake"]).exit_code == 0
        assert fake.running() == ("tenants",)


def test_a_changed_lab_file_is_noticed(files: Files) -> None:
    """A lab that is up and whose file was changed since is not tested: the message says what to do."""
    with fake.playing(*recordings()):
        run = CliRunner().invoke
        run(main, ["up", str(files.lab), "--driver", "fake"])
        files.lab.write_text(LAB + "# changed\n", encoding="utf-8")
        found = run(main, ["test", str(files.scenarios), "--driver", "fake"])
        assert found.exit_code == 2
        assert "made from another version of this file" in found.stderr


@pytest.mark.parametrize(
    ("keep", "code", "up"), [("never", 1, 0), ("on-failure", 1, 1), ("on-failure", 0, 0), ("always", 0, 1)]
)
def test_keep(files: Files, keep: str, code: int, up: int) -> None:
    """A lab that the test started goes with it, unless it is to be kept: after failures, or always."""
    first, blue, probe = recordings()
    playing = [first, printing(blue, "", code=0) if code else blue, probe]
    with fake.playing(*playing):
        found = CliRunner().invoke(main, ["test", str(files.scenarios), "--driver", "fake", "--keep", keep])
        assert found.exit_code == code, found.output
        assert len(fake.running()) == up


def test_looking_around(files: Files) -> None:
    """`get` lists pods, services, outside nodes, taps, cluster nodes and programs as kubectl would."""
    with fake.playing(*recordings()):
        run = CliRunner().invoke
        run(main, ["up", str(files.lab), "--driver", "fake"])

        def get(what: str, *words: str) -> list[list[str]]:
            found = run(main, ["get", what, "--driver", "fake", *words])
            assert found.exit_code == 0, found.output
            return [line.split() for line in found.output.splitlines()]

        assert get("pods")[0] == ["NAMESPACE", "NAME", "READY", "STATUS", "IP", "NODE"]
        assert [row[1] for row in get("pods", "-n", "red")[1:]] == ["client", "shop-v1", "shop-v2"]
        services = {row[1]: row for row in get("services")[1:]}
        assert services["proxy"][4:6] == ["3128", "10.4.0.201:3128"]
        assert [row[0] for row in get("outside")[1:]] == ["bigip", "firewall", "tinyproxy", "site.example"]
        assert [row[0] for row in get("nodes")[1:]] == ["server-0", "agent-0"]
        assert "bigip.dmz" in [row[0] for row in get("taps")[1:]]
        assert ["bigip", "egress-proxy"] in [row[:2] for row in get("programs")[1:]]


def test_logs(files: Files) -> None:
    """`logs` prints what a node's programs printed, by node or pod, and only what `-c` names."""
    with fake.playing(*recordings()):
        run = CliRunner().invoke
        run(main, ["up", str(files.lab), "--driver", "fake"])
        run(main, ["test", str(files.scenarios), "--driver", "fake"])
        found = run(main, ["logs", "bigip", "--driver", "fake"])
        assert '"verdict": "REJECTED"' in found.output
        nothing = run(main, ["logs", "bigip", "-c", "other", "--driver", "fake"])
        assert (nothing.exit_code, nothing.output) == (0, "")
        unknown = run(main, ["logs", "bigpi", "--driver", "fake"])
        assert unknown.exit_code == 2
        assert "did you mean 'bigip'?" in unknown.stderr


def test_nothing_is_up_is_said(files: Files) -> None:
    """Looking into a lab where none is up, or none of that name, says so and ends with 4."""
    found = egresslab("get", "pods", "--driver", "fake")
    assert (found.exit_code, found.stderr) == (
        4,
        "egresslab: no lab is up; `egresslab up bookinfo-egress` stands one up\n",
    )
    named = egresslab("get", "pods", "--lab", "tenants", "--driver", "fake")
    assert (named.exit_code, named.stderr) == (4, "egresslab: no lab named 'tenants' is up; known: none\n")
    assert files.lab.exists()


def test_plan(files: Files) -> None:
    """`plan` prints nodes and services with their addresses, and starts nothing."""
    found = egresslab("plan", files.lab, "--driver", "fake")
    assert found.exit_code == 0
    assert any(line.split()[:2] == ["bigip", "egress-proxy"] for line in found.output.splitlines() if line)
    assert "red/proxy" in found.output
    assert fake.running() == ()


@pytest.mark.parametrize("of", ["lab", "scenario"])
def test_schema(of: str) -> None:
    """`schema` prints a JSON schema."""
    assert "$defs" in json.loads(egresslab("schema", of).output)


@pytest.mark.parametrize("words", [("--help",), ("test", "--help"), ("up", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    """Help and version answer without any package that takes long to load."""
    run = f"from harness.cli import main; main({list(words)!r}, standalone_mode=False)"
    code = f"import sys; {run}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in found.stdout.splitlines()[-1].split()}
    assert "harness" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_reader_that_leaves_is_no_error(files: Files) -> None:
    """As with any tool, a pipe that is closed early, by `head` say, ends the command quietly."""
    code = "from harness.cli import main; main(['plan', 'lab.yaml', '--driver', 'fake'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=files.lab.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0
