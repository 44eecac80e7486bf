"""A change behind a lab's back: what runs is another thing than its plan says, and scenarios must notice.

The plan stays as it is, so that scenarios are judged by what the lab file declares, not by what was made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from harness.identity import Certificates
    from harness.lab import Lab
    from harness.plan import Node, Runtime

Loc = tuple[str | int, ...]
"""A place in a lab: attributes, keys and indexes from the top."""

_T = TypeVar("_T")


class _Gone(Enum):
    REMOVED = "removed"


REMOVED = _Gone.REMOVED
"""In place of a value: the key or element itself is taken away."""


@dataclass(frozen=True)
class Mutation:
    """What is to run instead.

    `edits` are other values at places of the lab, `runtime` changes what a node holds when all is rendered, `route`
    is a route that is left out, as (node, destination).
    """

    edits: Mapping[Loc, Any] = field(default_factory=dict)
    runtime: Callable[[Node, Runtime, Certificates], Runtime] | None = None
    route: tuple[str, str] | None = None

    def lab(self, lab: Lab) -> Lab:
        """Return the lab with the edits."""
        for loc, value in self.edits.items():
            lab = edited(lab, loc, value)
        return lab


def edited(whole: _T, loc: Loc, value: Any) -> _T:
    """Return a frozen value with another value at a place; a place that is not there changes nothing.

    A step may have taken away what was to be changed. Nothing is validated: what a lab file may not say, a lab that
    is wrong may do.
    """
    if not loc:
        changed: _T = value
        return changed
    first, rest = loc[0], loc[1:]
    if not _has(whole, first):
        return whole
    if isinstance(whole, BaseModel):
        name = str(first)
        return whole.model_copy(update={name: edited(getattr(whole, name), rest, value)})
    items: Any = dict(whole) if isinstance(whole, Mapping) else list(whole)  # type: ignore[call-overload]
    if not rest and value is REMOVED:
        del items[first]
    else:
        items[first] = edited(items[first], rest, value)
    done: Any = items if isinstance(whole, Mapping) else tuple(items)
    same: _T = done
    return same


def _has(whole: Any, part: str | int) -> bool:
    if isinstance(whole, BaseModel):
        return str(part) in type(whole).model_fields
    return part in whole if isinstance(whole, Mapping) else isinstance(part, int) and part < len(whole)
