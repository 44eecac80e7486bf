"""The JSON schemas say of a file's structure what the loader says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness import schema, shipped, source

FILES = Path(__file__).parent / "files"
BAD_FILES = Path(__file__).parent.parent / "bad_files"
LABS = [FILES / "lab.yaml", *shipped.shipped_labs().values()]
SCENARIOS = [
    FILES / "scenarios.yaml",
    *(path for name in shipped.shipped_labs() for path in shipped.scenario_paths(name)),
]
STRUCTURAL = [
    "lab-bad-name",
    "lab-list",
    "lab-missing-key",
    "lab-missing-kind",
    "lab-no-networks",
    "lab-not-one-of",
    "lab-on-is-text",
    "lab-out-of-range",
    "lab-text",
    "lab-unknown-key",
    "lab-unknown-kind",
    "lab-wrong-type",
    "scenario-identity",
    "scenario-labels",
    "scenario-missing-lab",
    "scenario-not-a-list",
    "scenario-numbers-out-of-range",
    "scenario-packets",
    "scenario-unknown-key",
    "scenario-unknown-matrix-key",
]


def errors(path: Path, of: dict[str, Any]) -> list[str]:
    """Return what the schema says against a file."""
    data = source.read(path).data
    return [error.message for error in jsonschema.Draft202012Validator(of).iter_errors(data)]


@pytest.mark.parametrize("made", [schema.lab_schema, schema.scenario_schema])
def test_is_a_schema(made: Any) -> None:
    """Each schema is a valid one of the draft that it names."""
    found = made()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(found)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.parent.name)
def test_labs_fit(path: Path) -> None:
    """Every form of writing that the loader takes fits the schema: lists of names, single values, nothing."""
    assert errors(path, schema.lab_schema()) == []


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_scenarios_fit(path: Path) -> None:
    """Every scenario file that loads fits the schema."""
    assert errors(path, schema.scenario_schema()) == []


@pytest.mark.parametrize("name", STRUCTURAL)
def test_bad_structure_does_not_fit(name: str) -> None:
    """A file that is wrong in a single key does not fit, so that an editor can say so."""
    of = schema.lab_schema() if name.startswith("lab") else schema.scenario_schema()
    assert errors(BAD_FILES / f"{name}.yaml", of)


def test_each_kind_has_its_own_keys() -> None:
    """An outside node is a choice among kinds, each with the keys of its own model."""
    defined = schema.lab_schema()["$defs"]
    assert any("virtual_servers" in entry.get("properties", {}) for entry in defined.values())
    data = {"lab": "x", "networks": {"a": {"cidr": "10.0.0.0/8"}}}
    validator = jsonschema.Draft202012Validator(schema.lab_schema())
    assert validator.is_valid(data | {"outside": {"s": {"kind": "website", "on": ["a"], "tls": "none"}}})
    assert not validator.is_valid(data | {"outside": {"s": {"kind": "firewall", "on": ["a"], "tls": "none"}}})
