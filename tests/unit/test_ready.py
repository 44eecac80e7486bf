"""Named waits: found at once, found later, not found in time; never longer than they say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.ready import NotInTime, until


class Clock:
    """Counts how often and how long somebody slept, instead of sleeping."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Note it."""
        self.slept.append(seconds)


def test_what_is_there_is_returned_without_a_wait() -> None:
    """When the first look finds it, nobody sleeps."""
    clock = Clock()
    assert until("it", lambda: "found", seconds=1, sleep=clock.sleep) == "found"
    assert clock.slept == []


def test_what_comes_is_waited_for() -> None:
    """It is looked for again and again, a pause between, until it is there."""
    clock, answers = Clock(), iter([None, "", "", "there"])
    assert until("it", lambda: next(answers), seconds=60, every=0.25, sleep=clock.sleep) == "there"
    assert clock.slept == [0.25, 0.25], "two looks, at once, are before the first pause"


def test_what_does_not_come_is_named() -> None:
    """A wait that ends without its condition says what it waited for and how long."""
    with pytest.raises(NotInTime, match=r"^the moon within 0\.02 s$"):
        until("the moon", lambda: None, seconds=0.02, every=0.001)


def test_a_failure_passes_at_once() -> None:
    """What the look itself raises is not retried: it would be raised again."""
    looks = []

    def broken() -> None:
        looks.append(1)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        until("it", broken, seconds=5)
    assert len(looks) == 1


def test_a_failure_while_waiting_passes_too() -> None:
    """Also a later look's error ends the wait."""
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise ConnectionError("closed")

    with pytest.raises(ConnectionError, match="closed"):
        until("it", look, seconds=5, every=0.001)


def test_a_wait_that_is_over_at_once_loads_nothing() -> None:
    """The library for waiting is loaded by the first wait that has to, not before."""
    wait = "from harness.ready import until; until('x', lambda: 1, seconds=1)"
    code = f"import sys; {wait}; print('tenacity' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
