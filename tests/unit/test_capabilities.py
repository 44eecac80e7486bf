"""What a machine cannot do: fallbacks where the lab file names them, skipped cases with their reason where not."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from harness import capabilities, shipped, source
from harness.capabilities import Skipped
from harness.drivers import netns
from harness.errors import InputError, MissingCapability
from harness.lab import Lab, load_lab, parse_lab
from harness.report import Summary, write
from harness.reports.terminal import Terminal
from harness.scenario import Item, load_scenarios

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

WHY = "this kernel has no such link"
STARTED = dt.datetime(2026, 11, 21, 15, 7, 47, tzinfo=dt.UTC)


def lacking(*names: str) -> capabilities.Missing:
    """Return a driver's `missing` for a machine that lacks these."""

    def missing(asked: Collection[str]) -> Mapping[str, str]:
        return {name: WHY for name in names if name in asked}

    return missing


def overlays(old: str = "", new: str = "") -> Lab:
    """Return the shipped lab with overlays, with an edit of its text."""
    path = shipped.find_lab("overlays")
    text = path.read_text(encoding="utf-8")
    assert old in text
    return parse_lab(source.parse(text.replace(old, new).encode(), str(path)))


def cases() -> tuple[Item, ...]:
    """Return the shipped cases of that lab."""
    return tuple(item for path in shipped.scenario_paths("overlays") for item in load_scenarios(path))


def pool_of(lab: Lab, name: str) -> tuple[str, str, str | None]:
    """Return overlay, mode and fallback of a lab's pool."""
    assert lab.cluster is not None
    pool = lab.cluster.pools[name]
    return pool.overlay, pool.mode, pool.fallback


def test_on_a_machine_that_can_everything_a_lab_is_as_its_file_says() -> None:
    """Nothing is put in the place of anything, and no case is skipped."""
    lab = overlays()
    assert capabilities.settled(lab, lacking()) is lab
    assert capabilities.stand_ins(lab, lab) == ()
    assert capabilities.runnable(cases(), lab, lacking(), ()) == (list(cases()), [])


def test_a_fallback_takes_the_place_of_what_is_missing() -> None:
    """The pool's mode stays, nothing else changes, and what stands in for what is told."""
    lab = overlays()
    settled = capabilities.settled(lab, lacking("ipip", "geneve"))
    assert pool_of(lab, "ip-in-ip") == ("ipip", "CrossSubnet", "vxlan")
    assert pool_of(settled, "ip-in-ip") == ("vxlan", "CrossSubnet", None)
    assert pool_of(settled, "always") == pool_of(lab, "always")
    assert capabilities.stand_ins(lab, settled) == (
        "the overlay of pool 'ip-in-ip' goes by vxlan: this machine has no ipip",
        "the mirror 'near-port' of 'analyser' goes by vxlan: this machine has no geneve",
    )


def test_without_a_fallback_the_lab_does_not_stand() -> None:
    """The error names the part, the capability and the reason."""
    lab = overlays("fallback: vxlan, namespaces", "namespaces")
    with pytest.raises(MissingCapability, match=f"pool 'ip-in-ip' needs ipip, and {WHY}") as caught:
        capabilities.settled(lab, lacking("ipip"))
    assert caught.value.capability == "ipip"


def test_an_overlay_that_is_never_used_needs_nothing() -> None:
    """A pool whose mode is Never wraps nothing."""
    lab = overlays("overlay: ipip, mode: CrossSubnet, fallback: vxlan", "overlay: ipip, mode: Never")
    assert capabilities.settled(lab, lacking("ipip", "geneve")).cluster == lab.cluster


def test_cases_that_say_what_they_need_are_skipped_without_it() -> None:
    """The others are run, in their order; each skipped one has the capability's name and the reason."""
    kept, skipped = capabilities.runnable(cases(), overlays(), lacking("ipip"), ())
    assert [one.item.scenario.needs for one in skipped] == [("ipip",), ("ipip",)]
    assert str(skipped[0]) == f"needs ipip: {WHY}"
    assert len(kept) + len(skipped) == len(cases())
    assert not any("ipip" in item.scenario.needs for item in kept)


def test_without_a_fallback_every_case_of_the_lab_is_skipped() -> None:
    """Where the lab cannot stand nothing of it can be run, and the reason names the part that needs it."""
    lab = overlays("fallback: vxlan, namespaces", "namespaces")
    kept, skipped = capabilities.runnable(cases(), lab, lacking("ipip"), ("ipip",))
    assert not kept
    assert str(skipped[0]) == f"needs ipip: {WHY} (the overlay of pool 'ip-in-ip')"
    assert all(one.allowed for one in skipped)


def test_a_case_is_skipped_with_its_control() -> None:
    """What rests on a control that cannot be run cannot be judged."""
    case = next(item for item in cases() if not item.scenario.needs)
    control = next(item for item in cases() if item.scenario.needs == ("ipip",))
    resting = case.model_copy(update={"controls": (control,)})
    kept, skipped = capabilities.runnable([resting], overlays(), lacking("ipip"), ())
    assert (kept, [one.capability for one in skipped]) == ([], ["ipip"])


def test_the_driver_is_not_asked_about_what_nobody_needs() -> None:
    """A lab without tunnels costs no look at the kernel."""
    lab = load_lab(shipped.find_lab("legacy-database"))
    items = load_scenarios(shipped.scenario_paths("legacy-database")[0])

    def never(_: Collection[str]) -> Mapping[str, str]:
        raise AssertionError("asked")

    assert capabilities.runnable(items, lab, never, ()) == (list(items), [])
    assert capabilities.settled(lab, never) is lab


def test_an_unknown_capability_is_refused() -> None:
    """`--allow-missing` takes the names of capabilities only, and suggests the nearest."""
    with pytest.raises(InputError, match="did you mean 'ipip'"):
        capabilities.check_names(["vxlan", "ipp"])


def test_the_kernel_is_tried() -> None:
    """What is missing is missing with the kernel's reason, and what is there is not named."""
    lost = netns.missing(["vxlan", "ipip", "geneve"])
    assert "vxlan" not in lost
    assert set(lost) <= {"ipip", "geneve"}
    assert set(lost.values()) <= {WHY}


def summary_of(*skipped: Skipped) -> Summary:
    """Return a run in which everything was skipped."""
    return Summary("overlays", "Overlays", "netns", (), (), {}, STARTED, 0.1, skipped=skipped)


def skipped_one(*, allowed: bool) -> Skipped:
    """Return a skipped case."""
    item = next(item for item in cases() if item.scenario.needs)
    return Skipped(item, "ipip", WHY, allowed)


def test_exit_codes_of_skipped_cases() -> None:
    """3 unless every one of them may be skipped; a run in which nothing was selected at all is another thing."""
    assert summary_of(skipped_one(allowed=False)).exit_code == 3
    assert summary_of(skipped_one(allowed=True)).exit_code == 0
    assert summary_of(skipped_one(allowed=True), skipped_one(allowed=False)).exit_code == 3
    assert summary_of().exit_code == 5


@pytest.mark.parametrize("allowed", [True, False])
def test_skipped_cases_stand_in_every_report(tmp_path: Path, *, allowed: bool) -> None:
    """JSON lines, JUnit, TAP and the page have the case with its reason; TAP calls it ok only where it may be."""
    one = skipped_one(allowed=allowed)
    folder = write(summary_of(one), None, tmp_path)
    head, record = map(json.loads, (folder / "flows.jsonl").read_text(encoding="utf-8").splitlines())
    assert head["counts"]["skipped"] == 1
    assert (record["verdict"], record["needs"], record["reason"], record["allowed"]) == (
        "skipped",
        "ipip",
        WHY,
        allowed,
    )
    suite = ET.parse(folder / "junit.xml").getroot()[0]  # noqa: S314 - written by ourselves
    assert (suite.get("tests"), suite.get("skipped")) == ("1", "1")
    assert suite[0][0].get("message") == f"needs ipip: {WHY}"
    tap = (folder / "results.tap").read_text(encoding="utf-8").splitlines()
    assert tap[1:] == [
        "1..1",
        f"{'ok' if allowed else 'not ok'} 1 - {one.item.id} # SKIP needs ipip: {WHY}",
    ]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert re.search(rf"Not run on this machine.*{re.escape(one.item.id)}.*{WHY}", page, re.DOTALL)


@pytest.mark.parametrize("allowed", [True, False])
def test_the_terminal_says_what_was_skipped_and_how_to_accept_it(*, allowed: bool) -> None:
    """A row for the scenario, and the option's words unless it was given."""
    text = io.StringIO()
    terminal = Terminal(console=Console(file=text, width=200))
    terminal.skipped(skipped_one(allowed=allowed))
    terminal.summary(summary_of(skipped_one(allowed=allowed)), "out")
    assert "- skipped IP-in-IP wraps packets to another rack" in text.getvalue()
    assert "1 skipped in 0.10 s" in text.getvalue()
    assert ("1 skipped for want of ipip; --allow-missing ipip accepts that" in text.getvalue()) is not allowed
