"""Which YAML files pytest takes for scenario files, by what they hold and by what the user named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.discovery import Asked, ahead, is_scenarios

if TYPE_CHECKING:
    from pathlib import Path

OURS = b"# flows\nlab: bookinfo-egress\nscenarios:\n  - name: x\n"
NO_LAB = b"scenarios:\n  - name: x\n"
DEEPER = b"lab: x\nruns:\n  scenarios: []\n"
FLOW_STYLE = b"{lab: x, scenarios: []}\n"
UTF_16 = OURS.decode().encode("utf-16")


@pytest.mark.parametrize(
    ("content", "file", "folder", "nothing"),
    [
        (OURS, True, True, True),
        (b"\xef\xbb\xbf" + OURS, True, True, True),
        (b"'scenarios' : []\nlab: x\n", True, True, True),
        (NO_LAB, True, True, False),
        (DEEPER, True, False, False),
        (FLOW_STYLE, True, False, False),
        (UTF_16, True, False, False),
        (b"kind: Pod\n", False, False, False),
        (b"", False, False, False),
    ],
)
def test_what_is_ours(tmp_path: Path, content: bytes, *, file: bool, folder: bool, nothing: bool) -> None:
    """A named file may say `scenarios` anywhere, one in a named folder at its top, else with `lab` beside it."""
    path = tmp_path / "some.yaml"
    path.write_bytes(content)
    asked: tuple[Asked, ...] = ("file", "folder", "nothing")
    assert [is_scenarios(path, word) for word in asked] == [file, folder, nothing]


def test_other_endings_and_missing_files(tmp_path: Path) -> None:
    """Only *.yaml is read; a file that is not there is nobody's."""
    (tmp_path / "some.yml").write_bytes(OURS)
    assert not is_scenarios(tmp_path / "some.yml", "file")
    assert not is_scenarios(tmp_path / "none.yaml", "file")


def test_ahead_skips_folders(tmp_path: Path) -> None:
    """Files are found at any depth, outside the folders that pytest does not enter either."""
    for place in ("a/b", ".git", "node_modules/x"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "flows.yaml").write_bytes(OURS)
    single = tmp_path / "single.yaml"
    single.write_bytes(FLOW_STYLE)
    found = list(ahead([tmp_path, single], "nothing", [".*", "node_modules"]))
    assert found == [tmp_path / "a/b/flows.yaml", single]
