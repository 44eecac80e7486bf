"""Labs are found by name or by path, and every shipped file loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import shipped
from harness.errors import InputError
from harness.lab import load_lab
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from pathlib import Path

LABS = sorted(shipped.shipped_labs())
SCENARIOS = [path for name in LABS for path in shipped.scenario_paths(name)]


@pytest.mark.parametrize("name", LABS)
def test_shipped_lab(name: str) -> None:
    """A shipped lab loads, is called by its folder's name, and is found by it."""
    path = shipped.find_lab(name)
    assert load_lab(path).lab == path.parent.name == name


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_scenarios(path: Path) -> None:
    """A shipped scenario file loads, has cases, and is for the lab whose name its folder has."""
    assert load_scenarios(path)
    assert shipped.lab_of(path) == shipped.find_lab(path.parent.name).resolve()


def test_ids_are_unique_in_a_lab() -> None:
    """No two cases of a lab have one id, whichever files they are in."""
    for name in LABS:
        ids = [item.id for path in shipped.scenario_paths(name) for item in load_scenarios(path)]
        assert len(ids) == len(set(ids))


def test_the_first_lab_is_shipped() -> None:
    """The first article's lab is there, with scenarios."""
    assert "bookinfo-egress" in LABS
    assert shipped.scenario_paths("bookinfo-egress")


def test_a_lab_by_path(tmp_path: Path) -> None:
    """A path may name the lab file, or the folder that holds a lab.yaml."""
    path = tmp_path / "lab.yaml"
    path.write_text("lab: mine\nnetworks: {a: {cidr: 10.0.0.0/8}}\n", encoding="utf-8")
    assert shipped.find_lab(str(path)) == path
    assert shipped.find_lab(str(tmp_path)) == path


@pytest.mark.parametrize("word", ["bookinfo-egres", "", "no/such/lab.yaml", "x" * 5000, "a\0b"])
def test_unknown_lab(word: str) -> None:
    """An unknown lab is refused with the list of the shipped ones."""
    with pytest.raises(
        InputError, match=r"is neither a shipped lab nor a lab file; known: .*bookinfo-egress"
    ):
        shipped.find_lab(word)


def test_nearest_lab_is_suggested() -> None:
    """A name that is nearly right gets the right one suggested."""
    with pytest.raises(InputError, match="did you mean 'bookinfo-egress'"):
        shipped.find_lab("bookinfo-egres")


def test_scenarios_of_an_unknown_lab() -> None:
    """A lab of a user's own has no shipped scenarios, and its name is no path."""
    assert shipped.scenario_paths("../labs") == ()
