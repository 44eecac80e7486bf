"""JSON schemas of the two file formats, for editors: made from the models, draft 2020-12."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.lab_model import Lab
from harness.scenario_model import ScenarioFile

if TYPE_CHECKING:
    from pydantic import BaseModel

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def lab_schema() -> dict[str, Any]:
    """Return the schema of lab files; an outside node is a choice among the kinds that are installed."""
    return _schema(Lab, "Egress Lab: lab file")


def scenario_schema() -> dict[str, Any]:
    """Return the schema of scenario files."""
    return _schema(ScenarioFile, "Egress Lab: scenario file")


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True, mode="validation")
    for part in (schema, *schema.get("$defs", {}).values()):
        _allow_nothing(part)
    _close(schema)
    return {"$schema": DRAFT, **schema, "title": title}


def _allow_nothing(part: dict[str, Any]) -> None:
    """Let a key that may be left out have nothing after it, and a mapping of such keys be nothing at all."""
    required = part.get("required", [])
    if part.get("type") == "object" and not required:
        part["type"] = ["object", "null"]
    for key, value in part.get("properties", {}).items():
        if key not in required and {"type": "null"} not in value.get("anyOf", []):
            part["properties"][key] = {"anyOf": [value, {"type": "null"}]}


def _close(part: Any) -> None:
    """Refuse names that do not have the form of the names of their mapping."""
    if isinstance(part, dict):
        if "patternProperties" in part:
            part.setdefault("additionalProperties", False)
        for value in part.values():
            _close(value)
    elif isinstance(part, list):
        for value in part:
            _close(value)
