"""A document and a model -> an instance, or every problem of the file, in plain words and with its place."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness.errors import InputError, Problem
from harness.lab_model import Lab, Outside, outside_kinds
from harness.lab_words import shown
from harness.lookup import nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from harness.source import Document

_Model = TypeVar("_Model", bound=BaseModel)
_Loc = tuple[str | int, ...]

_MANY = 100
"""Beyond that many problems nobody waits for more of them."""

_ROUNDS = 10
"""Each round drops a part with a problem or what holds it; deeper files are rarely that wrong."""

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": "a number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}


@dataclass(frozen=True)
class Examined(Generic[_Model]):
    """A file's problems, and an instance of what is left without the parts that have one.

    The instance lets checks across keys run although other parts of the file are wrong. It is None when too
    little is left.
    """

    instance: _Model | None
    problems: tuple[Problem, ...]
    dropped: frozenset[_Loc]
    names: frozenset[tuple[str, ...]]

    def original(self, loc: _Loc) -> _Loc:
        """Return the location in the file of a location in the instance: dropped list entries count again."""
        return _original(loc, self.dropped)

    def touched(self, loc: _Loc, message: str) -> bool:
        """Say whether a complaint may be due to what was dropped: it is around it, in it, or names it."""
        near = any(gone[: len(loc)] == loc[: len(gone)] for gone in self.dropped)
        return near or any(all(repr(word) in message for word in words) for words in self.names)


def validate(document: Document, model: type[_Model]) -> _Model:
    """Return the file as an instance of `model`.

    Raises InputError with all problems of the file, in the order of their places.
    """
    found = examine(document, model)
    if found.problems or found.instance is None:
        raise InputError(*found.problems)
    return found.instance


def examine(document: Document, model: type[_Model]) -> Examined[_Model]:
    """Return the file's problems and what of it can be used.

    Raises InputError only when the file is empty or no mapping.
    """
    if document.data is None:
        raise InputError(Problem(document.path, 1, 1, "the file is empty"))
    if not isinstance(document.data, dict):
        message = f"a file holds a mapping ('key: value' lines); found {_found(document.data)}"
        raise InputError(document.problem((), message))
    problems: set[Problem] = set()
    found: Examined[_Model] = Examined(None, (), frozenset(), frozenset())
    for _ in range(_ROUNDS):
        try:
            data = _without(document.data, found.dropped)
            instance = model.model_validate(data, by_alias=True, by_name=False)
        except ValidationError as error:
            dropped = set(found.dropped)
            for detail in error.errors(include_url=False):
                loc = found.original(_named(data, _place(model, detail["loc"])))
                problem = _problem(document, model, detail, loc)
                if not found.touched(loc, problem.message):
                    problems.add(problem)
                dropped.add(_existing(document.data, loc[:-1] if detail["type"] == "missing" else loc))
            found = Examined(None, (), frozenset(dropped), _names(document.data, dropped))
            if () in dropped or len(problems) > _MANY:
                break
        else:
            return Examined(instance, tuple(sorted(problems)), found.dropped, found.names)
    return Examined(None, tuple(sorted(problems)), found.dropped, found.names)


def _without(value: Any, dropped: frozenset[_Loc], here: _Loc = ()) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if (*here, key) not in dropped}
        return {key: _without(part, dropped, (*here, key)) for key, part in kept.items()}
    if isinstance(value, list):
        places = [(*here, index) for index in range(len(value))]
        pairs = zip(value, places, strict=True)
        return [_without(part, dropped, place) for part, place in pairs if place not in dropped]
    return value


def _names(data: Any, dropped: set[_Loc]) -> frozenset[tuple[str, ...]]:
    """Return the words by which a message would name what was dropped: a name, or a name and a key."""
    found: set[tuple[str, ...]] = set()
    for loc in filter(None, dropped):
        value = data
        for part in loc:
            value = value[part]
        last = value if isinstance(value, str) and isinstance(loc[-1], int) else loc[-1]
        if not isinstance(last, str):
            continue
        if last is value or not isinstance(value, str | int | float):
            found.add((last,))
        elif len(loc) > 1:
            found.add((str(loc[-2]), last))
    return frozenset(found)


def _original(loc: _Loc, dropped: frozenset[_Loc]) -> _Loc:
    found: _Loc = ()
    for part in loc:
        step = part
        if isinstance(step, int):
            gone = sorted(
                other[-1] for other in dropped if other[:-1] == found and isinstance(other[-1], int)
            )
            for index in gone:
                step += index <= step
        found = (*found, step)
    return found


def _named(data: Any, loc: _Loc) -> _Loc:
    """Return the location as the file has it: a list of names may stand for a mapping, a mapping for a list of one."""
    found: _Loc = ()
    for part in loc:
        if isinstance(data, dict) and isinstance(part, int):
            continue
        step = data.index(part) if isinstance(data, list) and isinstance(part, str) and part in data else part
        found = (*found, step)
        known = (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and step in range(len(data))
        )
        data = data[step] if known else None
    return found


def _existing(data: Any, loc: _Loc) -> _Loc:
    """Return the location, or the nearest around it that is in the data."""
    for depth, part in enumerate(loc):
        if not (
            part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        ):
            return loc[:depth]
        data = data[part]
    return loc


def _problem(document: Document, model: type[BaseModel], detail: ErrorDetails, loc: _Loc) -> Problem:
    kind, ctx, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return document.problem(loc, f"missing key {loc[-1]!r}{_within(loc[:-1])}", key=True)
    if kind == "extra_forbidden":
        known = nearest(str(loc[-1]), _keys(model, detail["loc"][:-1]))
        return document.problem(loc, f"unknown key {shown(loc[-1])}{_within(loc[:-1])}; {known}", key=True)
    if kind == "union_tag_not_found":
        known = ", ".join(outside_kinds())
        return document.problem(loc, f"missing key 'kind'{_within(loc)}; known kinds: {known}", key=True)
    if kind == "union_tag_invalid":
        known = nearest(ctx["tag"], list(outside_kinds()))
        return document.problem((*loc, "kind"), f"unknown kind {shown(ctx['tag'])}; {known}")
    if kind == "value_error":
        return document.problem(loc, str(ctx["error"]), key=loc[-1:] == ("[key]",))
    return document.problem(loc, _sentence(kind, _subject(loc), ctx, value))


def _sentence(kind: str, subject: str, ctx: dict[str, Any], value: Any) -> str:
    bound = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}.get(kind)
    if kind in _WANTED:
        hint = "; put it in quotes" if kind == "string_type" and isinstance(value, bool | int | float) else ""
        return f"{subject} must be {_WANTED[kind]}; found {_found(value)}{hint}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", ctx["expected"])
        if isinstance(value, str):
            return f"{subject} cannot be {shown(value)}; {nearest(value, known)}"
        return f"{subject} must be one of {', '.join(known)}; found {_found(value)}"
    if bound:
        return f"{subject} must be {bound[0]} {ctx[bound[1]]}; found {value}"
    if kind == "too_short":
        return f"{subject} must have at least {ctx['min_length']} entry"
    return f"{subject} cannot be {_found(value)}"


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "a mapping" if isinstance(value, dict) else "a list"


def _subject(loc: _Loc) -> str:
    last = loc[-1]
    if isinstance(last, int):
        return f"entry {last + 1} of {_subject(loc[:-1])}" if len(loc) > 1 else f"entry {last + 1}"
    return repr(last)


def _within(loc: _Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f" in {text.removeprefix('.')}" if text else ""


def _place(model: type[BaseModel], loc: _Loc) -> _Loc:
    """Return the location without the kind that the validator puts after the name of an outside node."""
    tagged = issubclass(model, Lab) and len(loc) > 2 and loc[0] == "outside" and loc[2] != "[key]"
    return (*loc[:2], *loc[3:]) if tagged else loc


def _keys(annotation: Any, loc: _Loc) -> list[str]:
    """Return the keys that may stand at a location, found by following the models' annotations."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return next((keys for part in arguments if (keys := _keys(part, loc))), [])
    if origin is Annotated:
        return _keys(arguments[0], loc)
    if origin in {dict, tuple}:
        return _keys(arguments[origin is dict], loc[1:])
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    if annotation is Outside:
        return _keys(outside_kinds()[str(loc[0])], loc[1:])
    fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
    return _keys(fields[str(loc[0])], loc[1:]) if loc else sorted(fields)
