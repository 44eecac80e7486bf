"""`egresslab init`: the files of a first lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from harness.cli import main
from harness.lab import load_lab
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from pathlib import Path


def init(folder: Path | str) -> Result:
    """Run `egresslab init`."""
    return CliRunner().invoke(main, ["init", str(folder)])


def test_both_files_are_written_and_the_next_command_is_named(tmp_path: Path) -> None:
    """It says what it wrote and which command runs it."""
    folder = tmp_path / "my-lab"
    result = init(folder)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"wrote {folder}/lab.yaml",
        f"wrote {folder}/scenarios.yaml",
        f"next: egresslab test {folder}",
    ]


def test_the_files_are_valid_and_belong_together(tmp_path: Path) -> None:
    """The lab is called as its folder, and the scenarios are for it."""
    folder = tmp_path / "my-lab"
    init(folder)
    assert load_lab(folder / "lab.yaml").lab == "my-lab"
    ids = [item.id for item in load_scenarios(folder / "scenarios.yaml")]
    assert "another tenant is reset by the proxy" in ids
    assert "nobody goes round the proxy [other/client]" in ids


def test_the_folder_may_be_the_one_we_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init .` takes the name of the present folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert init(".").exit_code == 0
    assert load_lab(tmp_path / "here" / "lab.yaml").lab == "here"


@pytest.mark.parametrize("name", ["7", "1.5", "null", "true"])
def test_a_name_that_yaml_takes_for_something_else_is_quoted(tmp_path: Path, name: str) -> None:
    """A folder called as a number or a YAML word still gives a lab of that name."""
    assert init(tmp_path / name).exit_code == 0
    assert load_lab(tmp_path / name / "lab.yaml").lab == name


@pytest.mark.parametrize("there", ["lab.yaml", "scenarios.yaml"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    """A file that is there already ends init with exit code 2, and nothing is written."""
    folder = tmp_path / "my-lab"
    folder.mkdir()
    (folder / there).write_text("mine\n", encoding="utf-8")
    result = init(folder)
    assert result.exit_code == 2
    assert f"{folder / there} is there already; nothing is overwritten" in result.output
    assert [path.name for path in folder.iterdir()] == [there]
    assert (folder / there).read_text(encoding="utf-8") == "mine\n"


def test_a_folder_name_that_cannot_be_a_labs_is_refused(tmp_path: Path) -> None:
    """The message says which form a name must have; no folder is made."""
    result = init(tmp_path / "My Lab")
    assert result.exit_code == 2
    assert "'My Lab' is not a name" in result.output
    assert not (tmp_path / "My Lab").exists()


def test_the_name_of_a_shipped_lab_is_refused(tmp_path: Path) -> None:
    """A lab called as a shipped one could not be told from it by name."""
    result = init(tmp_path / "bookinfo-egress")
    assert result.exit_code == 2
    assert "'bookinfo-egress' is a shipped lab" in result.output


def test_a_file_where_the_folder_should_be_is_one_sentence(tmp_path: Path) -> None:
    """What the operating system refuses is told without a traceback."""
    (tmp_path / "taken").write_text("", encoding="utf-8")
    result = init(tmp_path / "taken")
    assert result.exit_code == 2
    assert result.output == f"egresslab: {tmp_path / 'taken'}: File exists\n"
