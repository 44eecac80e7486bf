"""The form of every mapping in a file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Entry(BaseModel):
    """A mapping in a file: frozen, and no unknown keys.

    A key with nothing after it counts as not written; a mapping with nothing in it may be left empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_not_written(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, dict) or None not in data.values():
            return data
        optional = {
            field.alias or name for name, field in cls.model_fields.items() if not field.is_required()
        }
        return {key: value for key, value in data.items() if value is not None or key not in optional}
