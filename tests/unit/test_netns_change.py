"""What a running lab must do to become another: as little as possible."""

from __future__ import annotations

from dataclasses import replace

from harness.drivers.netns.change import difference
from harness.drivers.netns.layout import Layout, Payload, PlacedFile, Space, Start

ROUTES = PlacedFile("gateway", "/run/lab/gateway/routes.json", "80/20", 0o644, live=True)
CONFIG = PlacedFile("gateway", "/run/lab/gateway/envoy.json", "{}", 0o644)
ENVOY = Start("gateway", "envoy", ("envoy",), "log", "ready", capable=False, first=False, environment=())
OLD = Payload(
    lab="test",
    source=("lab.yaml", ""),
    state=b"",
    layout=Layout(spaces=(Space("gateway", "gateway", pod=False),)),
    starts=(ENVOY,),
    files=(ROUTES, CONFIG),
    keep=(),
    path="/usr/bin",
    library_path=None,
    start_seconds=10,
)


def test_a_live_file_is_replaced_under_programs_that_run() -> None:
    """Another content of a live file is written, and nothing is stopped or started."""
    changed = replace(ROUTES, content="50/50")
    found = difference(OLD, replace(OLD, files=(changed, CONFIG)))
    assert found.files == (changed,)
    assert (found.stops, found.starts, found.files_gone) == ((), (), ())
    assert list(found.words()) == ["~ gateway: files are replaced"]


def test_what_a_live_file_makes_true_is_waited_for() -> None:
    """A program that says when its files are applied runs on, and is waited for with what it says now."""
    says = replace(ENVOY, applied_by="secrets", applied_value="/run/lab/admin.sock 1")
    says_now = replace(says, applied_value="/run/lab/admin.sock 2")
    changed = replace(ROUTES, content="50/50")
    found = difference(
        replace(OLD, starts=(says,)), replace(OLD, starts=(says_now,), files=(changed, CONFIG))
    )
    assert (found.stops, found.starts, found.applying) == ((), (), (says_now,))
    assert difference(OLD, OLD).applying == ()


def test_another_file_starts_its_nodes_programs_anew() -> None:
    """A file that is not live was read at the start: who read it is started again."""
    found = difference(OLD, replace(OLD, files=(ROUTES, replace(CONFIG, content="{ }"))))
    assert found.stops == (("gateway", "envoy"),)
    assert found.starts == (ENVOY,)
    assert list(found.words()) == ["~ gateway: envoy is started anew"]


def test_a_live_file_that_comes_or_goes_is_no_replacement() -> None:
    """A program that did not know of a file does not watch it."""
    without = replace(OLD, files=(CONFIG,))
    assert difference(without, OLD).stops == (("gateway", "envoy"),)
    assert difference(OLD, without).stops == (("gateway", "envoy"),)


def test_nothing_changes_between_the_same() -> None:
    """The same payload twice asks for nothing."""
    found = difference(OLD, OLD)
    assert not any((found.stops, found.gone, found.files, found.files_gone, found.starts, found.kept))
