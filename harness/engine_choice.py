"""`--engine`: a lab file's text as it would be if its egress proxies ran on another engine.

The text is edited rather than the model, since a lab that is up is known by the text it was made from: whoever
attaches to it reads its logs by the engine that wrote them. Every other character stays where it is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from harness import lookup, source
from harness.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = "egress-proxy"


def with_engine(text: str, path: str, engine: str) -> str:
    """Return a lab file's text with this engine for each of its egress proxies; unchanged where it has none.

    A proxy without the key gets it in front of its `kind`: on a line of its own, in block style.
    Raises InputError for an unknown engine, and where the file writes an engine in a way that cannot be edited.
    """
    try:
        lookup.find("engines", engine)
    except lookup.UnknownName as error:
        raise InputError(str(error)) from error
    document = source.parse(text.encode(), path)
    edits = {}
    for name in _proxies(document):
        spec, place = document.data["outside"][name], ("outside", name)
        if "engine" in spec:
            at = _offset(text, document.position((*place, "engine")))
            edits[at] = (_written(text, at, spec["engine"]), engine)
        else:
            line, column = document.position((*place, "kind"), key=True)
            flow = text[_offset(text, document.position(place))] == "{"
            separator = ", " if flow else "\n" + " " * (column - 1)
            edits[_offset(text, (line, column))] = ("", f"engine: {engine}{separator}")
    edited = text
    for at, (old, new) in sorted(edits.items(), reverse=True):
        edited = edited[:at] + new + edited[at + len(old) :]
    if edits and not _is_only_that(document, edited, engine):
        name = next(_proxies(document))
        message = f"--engine cannot write {engine} here; write the engine's plain name"
        raise InputError(document.problem(("outside", name, "engine"), message))
    return edited


def has_proxies(text: str, path: str) -> bool:
    """Tell whether a lab file has an egress proxy."""
    return any(_proxies(source.parse(text.encode(), path)))


def _proxies(document: source.Document) -> Iterator[str]:
    outside = document.data.get("outside") if isinstance(document.data, dict) else None
    for name, spec in outside.items() if isinstance(outside, dict) else ():
        if isinstance(spec, dict) and spec.get("kind") == KIND:
            yield name


def _is_only_that(before: source.Document, edited: str, engine: str) -> bool:
    """Tell whether an edited text holds what was there before, but for the engines."""
    wanted = copy.deepcopy(before.data)
    for name in _proxies(before):
        wanted["outside"][name]["engine"] = engine
    try:
        found: object = source.parse(edited.encode(), before.path).data
    except InputError:
        return False
    return bool(found == wanted)


def _offset(text: str, position: tuple[int, int]) -> int:
    line, column = position
    return sum(len(before) + 1 for before in text.split("\n")[: line - 1]) + column - 1


def _written(text: str, at: int, value: object) -> str:
    """Return the characters by which a value stands there, quoted or plain; none where it stands otherwise."""
    for quote in ("", '"', "'"):
        words = f"{quote}{value}{quote}"
        if text.startswith(words, at):
            return words
    return ""
