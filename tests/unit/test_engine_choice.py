"""`--engine`: the lab file's text with another engine, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tenants import LAB, plan_of

from harness import lookup
from harness.engine_choice import has_proxies, with_engine
from harness.errors import InputError

ROOT = Path(__file__).parents[2]
BLOCK = """\
lab: l
networks: {a: {cidr: 10.0.0.0/24}}
outside:
  p:
    # a comment
    kind: egress-proxy   # another
    engine: "builtin"    # a third
    on: [a]
  q: {kind: egress-proxy, engine: haproxy, on: [a]}
  r: {on: [a], kind: egress-proxy}
  s:
    on: [a]
    kind: egress-proxy
  w: {kind: website, on: [a]}
"""


def test_every_proxy_gets_the_engine() -> None:
    """Written or not, in block or flow style; other nodes, comments and spaces stay."""
    assert (
        with_engine(BLOCK, "lab.yaml", "envoy")
        == """\
lab: l
networks: {a: {cidr: 10.0.0.0/24}}
outside:
  p:
    # a comment
    kind: egress-proxy   # another
    engine: envoy    # a third
    on: [a]
  q: {kind: egress-proxy, engine: envoy, on: [a]}
  r: {on: [a], engine: envoy, kind: egress-proxy}
  s:
    on: [a]
    engine: envoy
    kind: egress-proxy
  w: {kind: website, on: [a]}
"""
    )


def test_the_result_is_a_lab_with_that_engine() -> None:
    """The small lab, which names no engine, runs on the one that is chosen."""
    plan = plan_of(with_engine(LAB, "lab.yaml", "haproxy"))
    assert getattr(plan.node("bigip").spec, "engine", None) == "haproxy"


def test_a_lab_without_proxies_is_left_alone() -> None:
    """There is nothing to choose."""
    text = "lab: l\noutside: {w: {kind: website}}\n"
    assert with_engine(text, "lab.yaml", "envoy") == text
    assert not has_proxies(text, "lab.yaml")
    assert has_proxies(LAB, "lab.yaml")


def test_an_unknown_engine_lists_the_known() -> None:
    """The message names the nearest."""
    with pytest.raises(
        InputError, match=r"unknown engine 'envoi'.*builtin, envoy, external, haproxy.*'envoy'"
    ):
        with_engine(LAB, "lab.yaml", "envoi")


@pytest.mark.parametrize("written", ['"\\x62uiltin"', "*e", "!!str builtin", "&f builtin", "|-\n  builtin"])
def test_an_engine_that_cannot_be_replaced_in_place_is_said(written: str) -> None:
    """An escape, an alias, an anchor: the file is asked to say it plainly, and nothing else is changed by mistake."""
    text = f"title: &e builtin\noutside:\n p:\n  kind: egress-proxy\n  engine: {written}\n  on: [a]\n"
    with pytest.raises(InputError, match=r"lab\.yaml:[0-9]+:[0-9]+: "):
        with_engine(text, "lab.yaml", "envoy")


def test_two_proxies_that_share_a_mapping_are_changed_once() -> None:
    """An alias of a whole proxy follows its anchor."""
    text = "outside:\n  p: &p {kind: egress-proxy, engine: builtin}\n  q: *p\n"
    assert with_engine(text, "lab.yaml", "envoy") == text.replace("builtin", "envoy")


@pytest.mark.parametrize("text", ["", "- a\n", "outside: 3\n", "outside: {p: }\n", "outside: [p]\n"])
def test_what_is_no_lab_is_left_to_the_lab_to_say(text: str) -> None:
    """A file that is no lab file is not edited and does not fail here."""
    assert with_engine(text, "lab.yaml", "envoy") == text


def test_every_engine_has_the_form_of_an_engine() -> None:
    """A plug has render, read_log and what differs."""
    for name in lookup.names("engines"):
        plug = lookup.find("engines", name)
        assert callable(plug.render)
        assert callable(plug.read_log)
        assert plug.DIFFERENCES.answer


def test_the_page_tells_what_differs() -> None:
    """docs/engines.md has each engine's answer, translations and limits as its module declares them."""
    page = " ".join((ROOT / "docs" / "engines.md").read_text(encoding="utf-8").split())
    for name in lookup.names("engines"):
        differences = lookup.find("engines", name).DIFFERENCES
        assert f"| `{name}` | {differences.answer} |" in page
        assert all(limit in page for limit in differences.limits)
        for entry in differences.instead:
            said = f"{entry.exit}, `{entry.words}`" if entry.words else f"{entry.exit}"
            exits = " or ".join(map(str, entry.exits))
            shown = f"{exits}, `{entry.shows}`" if entry.shows else exits
            assert f"| `{name}` | {entry.by} | {said} | {shown} |" in page
