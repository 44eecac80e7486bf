"""When probes are sent, and how long."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

from harness.attempt import _probed
from harness.programs.flow import Outcome
from harness.programs.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.running import RunningLab


class Sender:
    """Sends nothing: answers each probe at once, and tells when the third batch was asked for."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.third = threading.Event()

    def probe(self, probes: Sequence[Probe], in_flight: int) -> Sequence[Outcome]:  # noqa: ARG002 - RunningLab's
        """Answer probes."""
        self.batches.append(len(probes))
        if len(self.batches) == 3:
            self.third.set()
        now = time.time_ns()
        return [
            Outcome(one.id, "answered", "request", "", None, None, None, 200, (), b"", now, now)
            for one in probes
        ]


def probes(count: int) -> list[Probe]:
    """Return probes that are to be sent at once."""
    return [Probe(number, "shop/client", "http", "site.example", 80) for number in range(count)]


def test_a_load_goes_on_until_its_steps_are_done_and_some_flows_came_after() -> None:
    """Steps that take longer than the load are still amid it: more flows come, a sixth of the load at a time."""
    sender, done = Sender(), 0

    def steps() -> None:
        nonlocal done
        assert sender.third.wait(10)
        done = time.time_ns()

    outcomes = _probed(cast("RunningLab", sender), probes(12), steps)
    assert sender.batches[:3] == [12, 2, 2]
    assert len(outcomes) == sum(sender.batches)
    assert outcomes[-1].started > done


def test_a_load_without_steps_is_sent_once() -> None:
    """As many flows as the scenario says, no more."""
    sender = Sender()
    assert len(_probed(cast("RunningLab", sender), probes(12), None)) == 12
    assert sender.batches == [12]
