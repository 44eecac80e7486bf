"""Whatever is killed, and whenever: nothing of the lab is left, the host is as it was, the next lab stands."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import PYTEST
from host_state import Host, first_process_of, left_of, picture, processes_of, sandboxes_of, watcher_of
from small_lab import REJECTED, Files, own_name, write

import harness
from harness import ready
from harness.drivers import netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.live

LEFT_SECONDS = 2.0
"""How long what is left may take to go."""
_PATIENCE = 60.0
_WITH_A_LAB = 0.7
"""The share of a run's time in which it has a lab."""
_TRIES = 4
_ROOT = Path(harness.__file__).parents[1]


class Killer:
    """One lab file and name, commands on it, and random moments; the seed is printed for those who look again."""

    def __init__(self, files: Files, word: str) -> None:
        self.files = files
        self.name = own_name(word)
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")  # noqa: T201 - shown when the test fails
        self._random = random.Random(seed)  # noqa: S311 - moments, not secrets
        self._before = picture()
        self._started: list[subprocess.Popen[str]] = []
        self.kills = 0
        self.too_late = 0
        self.slowest = 0.0

    def command(self, *words: str) -> subprocess.Popen[str]:
        """Start a command line of ours in a session of its own."""
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        process = subprocess.Popen(
            (sys.executable, "-m", *words),
            cwd=self.files.lab.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what a test that failed left behind."""
        for process in self._started:
            process.kill()
            process.communicate()
        if self.name in netns.running():
            netns.down(self.name)

    def up(self) -> subprocess.Popen[str]:
        """Start `egresslab up`."""
        return self.command("harness.cli", "up", str(self.files.lab), "--name", self.name)

    def test(self) -> subprocess.Popen[str]:
        """Start `egresslab test`."""
        return self.command("harness.cli", "test", str(self.files.scenarios), "--name", self.name)

    def pytest(self) -> subprocess.Popen[str]:
        """Start pytest on the scenarios."""
        options = (*PYTEST[3:], "-c", str(_ROOT / "pyproject.toml"), "--egresslab-name", self.name)
        return self.command("pytest", *options, str(self.files.scenarios))

    def seconds_of(self, start: Callable[[], subprocess.Popen[str]]) -> float:
        """Return how long a command takes that nobody kills."""
        begun = time.monotonic()
        process = start()
        printed, _ = process.communicate(timeout=_PATIENCE)
        seconds = time.monotonic() - begun
        assert process.returncode == 0, printed
        if self.name in netns.running():
            netns.down(self.name)
        return seconds

    def until(self, kills: int) -> Iterator[int]:
        """Count tries until so many commands were killed in time; a machine may be quicker than it was."""
        for number in range(kills * _TRIES):
            if self.kills >= kills:
                return
            yield number
        assert self.kills >= kills, f"only {self.kills} of {kills * _TRIES} came in time"

    def wait(self, most: float) -> None:
        """Let a random time pass, at most so many seconds."""
        time.sleep(self._random.uniform(0, most))

    def nothing_left(self, sandboxes: set[str]) -> None:
        """Assert that all of the lab is gone soon, and that the host is as it was."""
        begun = time.monotonic()
        last: list[str] = []

        def gone() -> bool:
            last[:] = left_of(self.name, sandboxes)
            return not last

        try:
            ready.until("nothing left of the lab", gone, seconds=LEFT_SECONDS)
        except ready.NotInTime:
            pytest.fail(f"left after {LEFT_SECONDS:g} s: {last}")
        self.slowest = max(self.slowest, time.monotonic() - begun)
        assert self._changed() == []

    def _changed(self) -> list[str]:
        now: Host = picture()
        return self._before.differences(now)

    def stands_again(self) -> None:
        """Assert that a lab of the same name stands up and goes down."""
        up = self.up()
        printed, _ = up.communicate(timeout=_PATIENCE)
        assert up.returncode == 0, printed
        sandboxes = sandboxes_of(self.name)
        down = self.command("harness.cli", "down", self.name)
        printed, _ = down.communicate(timeout=_PATIENCE)
        assert down.returncode == 0, printed
        self.nothing_left(sandboxes)


@pytest.fixture
def killer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killer]:
    """Give one test a killer, which says at the end how long the slowest clean-up took."""
    word = request.node.originalname.removeprefix("test_")[:24]
    found = Killer(write(tmp_path, [REJECTED]), word.replace("_", "-"))
    yield found
    found.close()
    print(f"{found.kills} killed, {found.too_late} had ended; gone after {found.slowest:.3f} s at most")  # noqa: T201


def _times(often: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("times", [3, pytest.param(often, marks=pytest.mark.prove)])


def _kill_owner(killer: Killer, start: Callable[[], subprocess.Popen[str]], most: float) -> None:
    """Kill a command at a random moment, with all that the kernel then has to clean up."""
    owner = start()
    killer.wait(most)
    sandboxes = sandboxes_of(killer.name)
    ended = owner.poll() is not None
    owner.kill()
    # what was made between our look and the kill is in a sandbox whose first process still has the lab's name
    sandboxes |= sandboxes_of(killer.name)
    printed, _ = owner.communicate(timeout=_PATIENCE)
    if "is up after" in printed and killer.name in printed and start == killer.up:
        killer.too_late += 1  # a lab that is up stays
        down = killer.command("harness.cli", "down", killer.name)
        down.communicate(timeout=_PATIENCE)
    elif ended:
        killer.too_late += 1
    else:
        killer.kills += 1
    killer.nothing_left(sandboxes)


def _kill_part(killer: Killer, part: Callable[[str], int | None], most: float) -> None:
    """Kill a process of the lab itself at a random moment of a run; its owner must end, and say why."""
    owner = killer.test()
    try:
        ready.until("the lab's processes", lambda: part(killer.name), seconds=_PATIENCE)
    except ready.NotInTime:
        owner.kill()
        pytest.fail(owner.communicate()[0])
    killer.wait(most)
    victim = part(killer.name)
    sandboxes = sandboxes_of(killer.name)
    try:
        os.kill(victim or 0x3FFFFFFF, signal.SIGKILL)  # no process has so high a number
        killer.kills += 1
    except ProcessLookupError:
        killer.too_late += 1
        victim = None
    killer.nothing_left(sandboxes)
    printed, _ = owner.communicate(timeout=_PATIENCE)
    assert "Traceback" not in printed, printed
    assert victim is None or owner.returncode in (0, 1, 3, 4), printed


@_times(20)
def test_killing_the_starter_leaves_nothing(killer: Killer, times: int) -> None:
    """SIGKILL of `egresslab up` while it starts a lab takes all of the lab along."""
    most = killer.seconds_of(killer.up)
    for _ in killer.until(times):
        _kill_owner(killer, killer.up, most)
    killer.stands_again()


@_times(20)
def test_killing_the_tester_leaves_nothing(killer: Killer, times: int) -> None:
    """SIGKILL of `egresslab test`, while it starts the lab or tries flows, takes the lab along."""
    most = killer.seconds_of(killer.test)
    for _ in killer.until(times):
        _kill_owner(killer, killer.test, most)
    killer.stands_again()


@_times(20)
def test_killing_pytest_leaves_nothing(killer: Killer, times: int) -> None:
    """SIGKILL of a pytest that runs scenarios takes its lab along."""
    most = killer.seconds_of(killer.pytest)
    for _ in killer.until(times):
        _kill_owner(killer, killer.pytest, most)
    killer.stands_again()


@_times(20)
def test_killing_the_first_process_leaves_nothing(killer: Killer, times: int) -> None:
    """SIGKILL of the sandbox's PID 1 ends all of the lab, and the command that used it ends without a traceback."""
    most = killer.seconds_of(killer.test) * _WITH_A_LAB
    for _ in killer.until(times):
        _kill_part(killer, first_process_of, most)
    killer.stands_again()


@_times(20)
def test_killing_the_watcher_leaves_nothing(killer: Killer, times: int) -> None:
    """SIGKILL of the watcher ends all of the lab, and the command that used it ends without a traceback."""
    most = killer.seconds_of(killer.test) * _WITH_A_LAB
    for _ in killer.until(times):
        _kill_part(killer, watcher_of, most)
    killer.stands_again()
    assert not processes_of(killer.name)
