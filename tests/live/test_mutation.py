"""`egresslab mutate`: a small lab in every run of the tests, each shipped lab in `make prove`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from small_lab import REJECTED, write

from harness import shipped

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

POLICY = "outside.bigip.policies.bookinfo-only"
EXCEPTIONS = f"""\
lab: bookinfo-egress
accepted:
  - mutants: ["{POLICY}.0: prefix without the last slash", "{POLICY}.0: prefix shorter by a segment"]
    reason: no other namespace begins like this one
"""
PROVE_SECONDS = 3600.0


def test_mutants_are_caught_missed_and_accepted(tmp_path: Path) -> None:
    """A wider policy is caught where a flow meets it; where none does it is missed, at its line, unless accepted.

    An exception for a mutant that is caught is stale, and an error.
    """
    files = write(tmp_path, [REJECTED])
    arguments = ("mutate", str(files.lab), str(files.scenarios), "--copies", "1", "-k", "prefix")
    done = egresslab(*arguments)
    assert done.returncode == 1, done.stderr + done.stdout
    lines = files.lab.read_text(encoding="utf-8").splitlines()
    number = 2 + next(index for index, line in enumerate(lines) if "bookinfo-only:" in line)
    assert f"lab.yaml:{number}: {POLICY}.0: prefix without the last slash\n" in done.stdout
    assert "2 mutants, 1 caught by 2 cases, 0 accepted, 1 missed" in done.stdout

    (tmp_path / "mutants.yaml").write_text(EXCEPTIONS, encoding="utf-8")
    done = egresslab(*arguments, "--json")
    assert done.returncode == 1, done.stderr + done.stdout
    found = json.loads(done.stdout)
    fates = {one["mutant"].removeprefix(f"{POLICY}.0: "): one["fate"] for one in found["tried"]}
    assert fates == {"prefix without the last slash": "accepted", "prefix shorter by a segment": "caught"}
    (stale,) = found["stale"]
    assert "is caught by a scenario, and needs no exception" in stale


@pytest.mark.prove
@pytest.mark.parametrize("lab", shipped.shipped_labs())
def test_no_mutant_of_a_shipped_lab_is_missed(lab: str) -> None:
    """Whatever may be wrong with a shipped lab, a scenario notices it, or mutants.yaml says why none can."""
    done = egresslab("mutate", lab, seconds=PROVE_SECONDS)
    print(done.stdout)  # noqa: T201 - the proof's figures
    assert done.returncode == 0, done.stderr + done.stdout
