"""What a running lab must do to become another: as little as possible."""

from __future__ import annotations

from dataclasses import replace

from harness.agent.change import difference
from harness.agent.layout import Layout, Nic, Payload, PlacedFile, Space, Start

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


def test_a_program_that_is_to_learn_other_routes_keeps_running() -> None:
    """What a program's readiness waits for is no reason to start it anew: it is waited for again."""
    bird = replace(ENVOY, ready_by="routes", ready_value="/run/bird.ctl 10.53.0.0/26")
    learns = replace(bird, ready_value="/run/bird.ctl 10.53.0.64/26")
    found = difference(replace(OLD, starts=(bird,)), replace(OLD, starts=(learns,)))
    assert (found.stops, found.starts, found.applying) == ((), (), (learns,))


def test_a_node_is_made_anew_with_its_pods_when_told_so() -> None:
    """A restart takes a node's namespace away though nothing of it differs, and with it whatever hangs on it."""
    nic = Nic("eth0", "02:00:00:00:00:00", (), "gateway", "cali0", "02:00:00:00:00:01")
    pod = Space("shop/web", "web", pod=True, nics=(nic,))
    other = Space("other", "other", pod=False)
    layout = Layout(spaces=(*OLD.layout.spaces, pod, other))
    found = difference(replace(OLD, layout=layout), replace(OLD, layout=layout), ("gateway",))
    assert found.gone == ("gateway", "shop/web")
    assert [space.name for space in found.new] == ["gateway", "shop/web"]
    assert (found.stops, found.starts) == ((("gateway", "envoy"),), (ENVOY,))


def test_a_program_is_told_of_a_file_that_was_replaced_under_it() -> None:
    """One that says when it has applied what stands in its files is waited for, though nothing else of it differs."""
    bird = replace(ENVOY, applied_by="rereads", applied_value="/run/bird.ctl")
    changed = replace(ROUTES, content="50/50")
    found = difference(replace(OLD, starts=(bird,)), replace(OLD, starts=(bird,), files=(changed, CONFIG)))
    assert (found.stops, found.starts, found.applying) == ((), (), (bird,))
    assert difference(OLD, replace(OLD, files=(changed, CONFIG))).applying == ()
