"""Labels and label selectors, as Kubernetes has them: their form, and what matches what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.entry import Entry
from harness.lab_words import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label that every namespace has by itself: its name (Kubernetes, Well-Known Labels)."""

LabelKey = Annotated[
    str,
    Form(
        r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
        "a label's key such as app or example.com/app",
    ),
]
LabelValue = Annotated[
    str,
    Form(
        r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
        "a label's value (at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends)",
        63,
    ),
]
PodLabels = dict[LabelKey, LabelValue]


class Requirement(Entry):
    """One of a selector's `matchExpressions`; `values` go with `In` and `NotIn`."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[LabelValue, ...] = ()

    @model_validator(mode="after")
    def _values_where_they_belong(self) -> Self:
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} needs 'values'")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"operator {self.operator} takes no 'values'")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether labels meet it; `NotIn` is also met by those without the key (meta/v1, LabelSelector)."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
        return self.key not in labels


class LabelSelector(Entry):
    """Whom it selects must meet all of it; an empty one selects everybody (meta/v1 LabelSelector)."""

    match_labels: PodLabels = Field(alias="matchLabels", default_factory=dict)
    match_expressions: tuple[Requirement, ...] = Field(alias="matchExpressions", default=())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether labels meet all of it."""
        equal = all(labels.get(key) == value for key, value in self.match_labels.items())
        return equal and all(requirement.matches(labels) for requirement in self.match_expressions)

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.match_labels.items()]
        for one in self.match_expressions:
            values = f" ({','.join(one.values)})" if one.values else ""
            words.append(f"{one.key} {one.operator}{values}")
        return ",".join(words) or "<everybody>"
