"""The sandbox that a lab runs in: started by anybody, from anywhere; read-only, private, and without trace outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from host_state import picture
from other_user import OTHER_USER, as_other, folder_for_others, interpreter
from small_lab import ALLOWED, REJECTED, Files, Standing, own_name, standing, write

import harness
from harness import ready
from harness.drivers import netns
from harness.drivers.netns.client import Client
from harness.drivers.netns.launch import owner_id

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

POD, OUTSIDE = "bookinfo/traffic-generator", "bigip"
_ROOT = Path(harness.__file__).parents[1]
_SECONDS = 60.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand up one lab for all tests that only look."""
    files = write(tmp_path_factory.mktemp("sandbox"), [REJECTED])
    with standing(files, own_name("sandbox")) as found:
        yield found


def _sh(lab: Standing, node: str, script: str) -> tuple[int | None, str]:
    result = lab.lab.run(node, ("sh", "-c", script), seconds=20)
    return result.code, result.stdout + result.stderr


@pytest.mark.parametrize("node", [POD, OUTSIDE])
@pytest.mark.parametrize("path", ["/usr/bin", "/etc", "/var/lib", "/", "/proc/sys/kernel/hostname"])
def test_the_root_is_read_only(lab: Standing, node: str, path: str) -> None:
    """A command in a node can write neither the host's files nor its settings."""
    target = path if path.startswith("/proc") else f"{path}/written-by-a-lab"
    code, text = _sh(lab, node, f"echo x > {target}")
    assert code != 0
    assert "Read-only file system" in text or "Permission denied" in text, text
    assert path.startswith("/proc") or not Path(target).exists()


def test_what_a_pod_writes_no_other_pod_sees(lab: Standing) -> None:
    """Each pod has mounts of its own: /tmp is private, and other pods' files, keys among them, are not there."""
    other, mine = "sm-apigw-a/nettools", f"/tmp/{own_name('mine')}"  # noqa: S108 - inside the pod
    assert _sh(lab, POD, f"echo secret > {mine} && cat {mine}") == (0, "secret\n")
    assert _sh(lab, other, f"test ! -e {mine}") == (0, "")
    assert _sh(lab, POD, f"test -r /run/egresslab/nodes/{POD}/certs/cert-chain.pem") == (0, "")
    assert _sh(lab, other, f"test ! -e /run/egresslab/nodes/{POD}/certs") == (0, "")
    assert not Path(mine).exists()


def test_a_pod_has_a_host_name_and_a_resolver_of_its_own(lab: Standing) -> None:
    """A pod's hostname and resolv.conf are what Kubernetes would give it."""
    assert _sh(lab, POD, "cat /proc/sys/kernel/hostname") == (0, "traffic-generator\n")
    code, text = _sh(lab, POD, "cat /etc/resolv.conf")
    assert code == 0
    assert "search bookinfo.svc.cluster.local svc.cluster.local cluster.local" in text


def test_a_command_of_a_workload_has_no_capabilities(lab: Standing) -> None:
    """What runs in a pod has no capability and can gain none, whoever started the lab."""
    code, text = _sh(lab, POD, "grep -E '^Cap(Eff|Prm|Bnd|Amb)|^NoNewPrivs' /proc/self/status")
    assert code == 0
    fields = dict(line.split(":\t") for line in text.splitlines())
    assert fields.pop("NoNewPrivs") == "1"
    assert {int(value, 16) for value in fields.values()} == {0}


def test_a_command_on_a_terminal_has_it(lab: Standing) -> None:
    """`exec -t` gives a command a controlling terminal, whose other end is ours."""
    child, master = lab.lab.interactive(
        POD, ("sh", "-c", "test -t 0 && tty && echo on > /dev/tty; exit 7"), None
    )
    assert child is not None
    assert master is not None
    assert lab.lab.wait(child, 20) == 7
    shown = ""
    with suppress(OSError):  # EIO: all was read, and nobody is left to write
        while "on" not in shown.partition("\n")[2]:
            shown += os.read(master, 4096).decode()
    os.close(master)
    assert shown.startswith("/dev/pts/")
    assert "on" in shown


def test_every_exit_status_is_told_right(lab: Standing) -> None:
    """300 quick commands: each status from 0 to 255 and each of 44 signals arrives as it was, none is lost."""
    client = Client(lab.lab.name, owner_id())
    wanted = list(range(256))
    signals = [number for number in range(1, 65) if number not in (17, 18, 19, 20, 21, 22, 23, 28, 32, 33)][
        :44
    ]
    started = [client.call("exec", node=POD, argv=["sh", "-c", f"exit {code}"])["child"] for code in wanted]
    killed = [
        client.call("exec", node=POD, argv=["sh", "-c", f"kill -{number} $$"])["child"] for number in signals
    ]
    codes = [client.call("wait", child=child, seconds=_SECONDS)["code"] for child in (*started, *killed)]
    client.close()
    assert codes == [*wanted, *(-number for number in signals)]


def test_orphans_are_reaped(lab: Standing) -> None:
    """A process whose parent is gone is reaped by the lab when it ends: no zombie stays."""
    assert _sh(lab, OUTSIDE, "for n in 1 2 3 4 5; do (sleep 0.05 &) ; done") == (0, "")
    script = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"
    ready.until("no zombie", lambda: _sh(lab, OUTSIDE, script) == (0, "0\n"), seconds=5)


def test_a_program_that_is_not_there_is_127(lab: Standing) -> None:
    """A command that cannot be found has the status shells give it, with the reason on its standard error."""
    result = lab.lab.run(POD, ("no-such-program",), seconds=5)
    assert (result.code, result.stderr) == (127, "no-such-program: No such file or directory\n")


def test_the_host_is_the_same_before_during_and_after(tmp_path: Path) -> None:
    """Interfaces, routes, packet filter and settings of the host do not notice a lab, nor what runs in it."""
    files = write(tmp_path, [REJECTED])
    before = picture()
    with standing(files, own_name("untouched")) as found:
        assert before.differences(picture()) == []
        assert [result.verdict.state for result in found.results(REJECTED)] == ["held"]
        assert before.differences(picture()) == []
    assert before.differences(picture()) == []


def test_labs_of_the_same_addresses_stand_side_by_side(tmp_path: Path) -> None:
    """Two copies of one lab, addresses and all, run at once; each sees its own flows only."""
    files = write(tmp_path, [REJECTED])
    with standing(files, own_name("twin-a")) as first, standing(files, own_name("twin-b")) as second:
        assert [result.verdict.state for result in first.results(REJECTED)] == ["held"]
        mark = second.lab.mark()
        assert [result.verdict.state for result in first.results(ALLOWED)] == ["held"]
        assert second.lab.collect(mark).lines == {}
        assert [result.verdict.state for result in second.results(ALLOWED)] == ["held"]


def _test_command(
    python: str, files: Files, package: Path, name: str, out: Path
) -> tuple[tuple[str, ...], dict[str, str]]:
    argv = (python, "-m", "harness.cli", "test", str(files.scenarios), "--name", name, "--out", str(out))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "HOME": str(out), "NO_COLOR": "1"}
    return argv, environment | {key: os.environ[key] for key in ("EGRESSLAB_TOOLS",) if key in os.environ}


def test_an_ordinary_user_runs_a_lab_while_root_runs_the_same() -> None:
    """The scenarios hold for a user without privileges, at the same time as for root, under the same lab name."""
    if os.geteuid() != 0:
        pytest.skip("not root: every other test here is the trial of an ordinary user already")
    with folder_for_others() as folder:
        python = interpreter(folder)
        files = write(folder, [REJECTED])
        out = folder / "out"
        out.mkdir()
        os.chown(out, OTHER_USER, OTHER_USER)
        name = own_name("both")
        argv, environment = _test_command(python, files, _ROOT, name, out)
        with standing(files, name) as mine:
            theirs = subprocess.run(
                argv,
                env=environment,
                cwd=out,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
                **as_other(),
            )
            assert [result.verdict.state for result in mine.results(REJECTED)] == ["held"]
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr


def test_a_checkout_of_somebody_else_with_mode_0700_runs(tmp_path: Path) -> None:
    """Root runs a lab from a checkout that only its owner may enter: the sandbox's root maps that owner too."""
    if os.geteuid() != 0:
        pytest.skip("not root: a checkout of somebody else cannot be made, nor entered")
    checkout = tmp_path / "checkout"
    shutil.copytree(_ROOT / "harness", checkout / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    files = write(tmp_path, [REJECTED])
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, OTHER_USER, OTHER_USER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    argv, environment = _test_command(sys.executable, files, checkout, own_name("theirs"), tmp_path / "out")
    ran = subprocess.run(
        argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_commands_that_are_not_there_harm_no_other(lab: Standing) -> None:
    """A command that cannot be started is 127, a hundred times, and the exit statuses of others still arrive.

    posix_spawn takes the process of a failed start back itself, beside the one reaper that there is.
    """
    client = Client(lab.lab.name, owner_id())
    for number in range(100):
        missing = client.call("exec", node=POD, argv=["no-such-command"])
        assert (missing["child"], missing["code"]) == (None, 127)
        started = client.call("exec", node=POD, argv=["sh", "-c", f"exit {number}"])["child"]
        assert client.call("wait", child=started, seconds=_SECONDS)["code"] == number
    client.close()


def test_commands_started_at_once_inherit_nothing_of_each_other(lab: Standing) -> None:
    """A command has its three streams and no more: another's pipe held open would keep that one from its end."""

    def listed(_: int) -> frozenset[str]:
        mine = netns.attach(lab.lab.name)
        try:
            return frozenset(mine.run("bigip", ("ls", "/proc/self/fd"), seconds=_SECONDS).stdout.split())
        finally:
            mine.close()

    with ThreadPoolExecutor(4) as threads:
        # the fourth is the folder that is being listed
        assert set(threads.map(listed, range(60))) == {frozenset("0123")}
