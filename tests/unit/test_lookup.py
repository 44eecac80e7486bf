"""A word in a file leads to the plug of that name, ours or another distribution's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from harness import lookup
from harness.nodes import egress_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def others_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have another distribution registered that has a check and a kind of its own."""
    (tmp_path / "their_plugs.py").write_text(
        "def judge(expected, evidence, passport):\n    return []\n", encoding="utf-8"
    )
    info = tmp_path / "their_plugs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-plugs\nVersion: 1.0\n", encoding="utf-8"
    )
    points = "[egresslab.checks]\nlatency = their_plugs\n[egresslab.nodes]\nload-balancer = their_plugs\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    lookup.names.cache_clear()
    lookup._entry_points.cache_clear()
    lookup.find.cache_clear()
    yield
    sys.modules.pop("their_plugs", None)
    lookup.names.cache_clear()
    lookup._entry_points.cache_clear()
    lookup.find.cache_clear()


def test_a_word_leads_to_its_module() -> None:
    """Hyphens in a word are underscores in the module's name."""
    assert lookup.find("nodes", "egress-proxy") is egress_proxy


def test_names_are_those_of_the_folder() -> None:
    """Each module of a plug folder has a name, in the order of the alphabet."""
    found = lookup.names("checks")
    assert {"allowed", "rejected", "dropped", "unseen-by"} <= set(found)
    assert list(found) == sorted(found)


def test_an_unknown_word_lists_the_known_and_the_nearest() -> None:
    """A misspelt word gets the list of the known ones and a suggestion."""
    with pytest.raises(
        lookup.UnknownName, match=r"unknown node 'egres-proxy'; known: .*; did you mean 'egress-proxy'\?"
    ):
        lookup.find("nodes", "egres-proxy")


def test_nothing_near_is_not_suggested() -> None:
    """Where no known word is like it, none is suggested."""
    assert lookup.nearest("zzz", ["alpha", "beta"]) == "known: alpha, beta"
    assert lookup.nearest("zzz", []) == "known: none"


@pytest.mark.parametrize("word", ["", "..", "__init__", "egress_proxy", "../drivers/fake", "os"])
def test_only_names_are_plugs(word: str) -> None:
    """A word that is not a plug's name imports nothing, whatever module has that name."""
    with pytest.raises(lookup.UnknownName):
        lookup.find("nodes", word)


@pytest.mark.usefixtures("others_check")
def test_plugs_of_other_distributions() -> None:
    """An entry point in the group of a folder is a plug like our own, listed after ours."""
    assert lookup.names("checks")[-1] == "latency"
    assert lookup.find("checks", "latency").__name__ == "their_plugs"
    assert lookup.names("nodes")[-1] == "load-balancer"


def test_plugs_of_others_go_with_them() -> None:
    """Without that distribution its plugs are unknown."""
    with pytest.raises(lookup.UnknownName):
        lookup.find("checks", "latency")


@pytest.mark.parametrize("folder", lookup.FOLDERS)
def test_every_plug_of_ours_can_be_imported(folder: str) -> None:
    """Each name that is listed leads to a module."""
    for name in lookup.names(folder):
        assert lookup.find(folder, name).__doc__
