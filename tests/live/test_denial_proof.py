"""One denial, honest and dishonest, again and again among the allowed traffic of another pod.

The long proofs are `make prove`'s; every run of the tests tries each often enough to show a common flake.
"""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pytest
from small_lab import ALLOWED, REJECTED, Standing, own_name, standing, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.verdict import Verdict

pytestmark = pytest.mark.live

_SESSION = 50
BUSY = "bookinfo/worker"
_LOOPS = """\
for loop in 1 2 3; do
  while :; do curl -sSkI -o /dev/null -x bigip-proxy-svc:3128 https://www.f5.com; echo $?; done &
done
wait
"""
HONEST, OPEN_LIAR, QUIET_LIAR = None, "reject-then-dial", "reject-then-dial-quietly"


def _with_worker(fault: str | None) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["namespaces"]["bookinfo"]["workloads"]["worker"] = {"runs": "client"}
        if fault is not None:
            lab["outside"]["bigip"]["fault"] = fault

    return edit


@contextmanager
def _busy(lab: Standing, statuses: IO[str]) -> Iterator[None]:
    """Have another pod send allowed flows three at a time; its clients' exit statuses go to a file."""
    with open("/dev/null", encoding="ascii") as nothing:  # noqa: PTH123 - a descriptor is wanted
        fds = (nothing.fileno(), statuses.fileno(), statuses.fileno())
        child, _ = lab.lab.interactive(BUSY, ("sh", "-c", _LOOPS), fds)
    assert child is not None
    try:
        yield
    finally:
        lab.lab.send_signal(child, signal.SIGKILL)
        lab.lab.wait(child, 20)


def _denials(folder: Path, fault: str | None, runs: int) -> list[tuple[Verdict, float]]:
    """Return the verdicts on so many denials amid allowed traffic; the control runs before that traffic begins."""
    files = write(folder, [REJECTED], _with_worker(fault))
    log = folder / "statuses"
    with (
        standing(files, own_name(f"denial-{fault or 'honest'}")) as lab,
        log.open("w", encoding="ascii") as statuses,
    ):
        (control,) = lab.results(ALLOWED)
        assert control.verdict.state == "held", str(control.verdict)
        with _busy(lab, statuses):
            found = list(_judged(lab, runs))
    served = Counter(log.read_text(encoding="ascii").split())
    print(f"{runs} denials, allowed flows beside them by exit status: {dict(served)}")  # noqa: T201 - the proof's figures
    assert set(served) == {"0"}
    assert served["0"] >= runs // 2
    return found


def _judged(lab: Standing, runs: int) -> Iterator[tuple[Verdict, float]]:
    """Try the denial so often; yields each verdict and how long it took (seconds).

    Without its control, which the traffic would make ambiguous, and under an id of its own each time, for a
    session runs each case once. A session keeps its evidence, so none lasts for long.
    """
    (denied,) = lab.items(REJECTED)
    for number in range(runs):
        if number % _SESSION == 0:
            session = lab.session()
        result = session.run(denied.model_copy(update={"id": f"{denied.id} {number}", "controls": ()}))
        yield result.verdict, result.seconds


def _prove(folder: Path, fault: str | None, runs: int) -> None:
    found = _denials(folder, fault, runs)
    states = Counter(verdict.state for verdict, _ in found)
    wrong = [str(verdict) for verdict, _ in found if (verdict.state == "held") != (fault is HONEST)]
    seconds = sum(taken for _, taken in found) / runs
    print(f"{fault or 'honest'}: {dict(states)}, {seconds:.3f} s each")  # noqa: T201 - as above
    assert not wrong, f"{len(wrong)} of {runs}: {wrong[0]}"


@pytest.mark.parametrize(("fault", "runs"), [(HONEST, 30), (OPEN_LIAR, 30), (QUIET_LIAR, 2)])
def test_a_denial_is_judged_right_amid_allowed_traffic(fault: str | None, runs: int, tmp_path: Path) -> None:
    """An honest denial is held every time; one whose proxy dials all the same, logged or not, is never held."""
    _prove(tmp_path, fault, runs)


@pytest.mark.prove
@pytest.mark.parametrize(("fault", "runs"), [(HONEST, 1000), (OPEN_LIAR, 1000), (QUIET_LIAR, 200)])
def test_a_denial_is_judged_right_every_time(fault: str | None, runs: int, tmp_path: Path) -> None:
    """The same, as often as it takes to see a rare flake."""
    _prove(tmp_path, fault, runs)
