"""YAML text -> values that know file, line and column, in bounded time and memory.

The dialect is YAML 1.2 with its core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `on`, `yes` and
`off` are plain text. Aliases are allowed; tags, merge keys and several documents in a file are not.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from harness.errors import InputError, Problem
from harness.scalars import resolved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 10_000
"""Counted after aliases are expanded, so that a few lines cannot stand for millions of values."""


@dataclass(frozen=True)
class _Event:
    """What the parser found next: a scalar, an alias, the start of a mapping or sequence, or an end."""

    kind: type[yaml.Event]
    line: int
    column: int
    value: str = ""
    anchor: str | None = None
    tag: str | None = None
    plain: bool = False


@dataclass(frozen=True)
class _Node:
    """A value and where it begins; `size` and `height` count it with everything in it."""

    data: Any
    line: int
    column: int
    size: int = 1
    height: int = 1
    children: dict[str | int, _Node] = field(default_factory=dict)
    keys: dict[str | int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """What a file holds: plain mappings, lists and scalars, and the place of each."""

    path: str
    data: Any
    root: _Node = field(repr=False)

    def position(self, loc: tuple[str | int, ...], *, key: bool = False) -> tuple[int, int]:
        """Return line and column, from 1, of the value at `loc`; of its key if `key` is set.

        Where there is no such value, the place of the nearest thing around it is returned. A list of names
        that stands for a mapping is searched by name; a mapping may stand for a list of one.
        """
        node, place = self.root, (self.root.line, self.root.column)
        for part in loc:
            if isinstance(node.data, dict) and isinstance(part, int):
                continue
            step: str | int = part
            if isinstance(node.data, list) and isinstance(part, str) and part in node.data:
                step = node.data.index(part)
            if step not in node.children:
                break
            place = node.keys[step]
            node = node.children[step]
        return place if key else (node.line, node.column)

    def problem(self, loc: tuple[str | int, ...], message: str, *, key: bool | None = None) -> Problem:
        """Return a problem at the place of `loc`: of a scalar, or of the key of a mapping or list."""
        line, column = self.position(loc, key=self._holds_more(loc) if key is None else key)
        return Problem(self.path, line, column, message)

    def _holds_more(self, loc: tuple[str | int, ...]) -> bool:
        node = self.root
        for part in loc:
            if isinstance(node.data, dict) and isinstance(part, int):
                continue
            if part not in node.children:
                return False
            node = node.children[part]
        return isinstance(node.data, dict | list)


def read(path: Path) -> Document:
    """Read and parse a file.

    Raises InputError when it cannot be read or is not in the dialect.
    """
    return parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, or its first MAX_BYTES + 1 bytes.

    Raises InputError when it cannot be read; only regular files are, since a pipe might never end.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(Problem(str(path), 0, 0, "not a file that can be read"))
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable file name"
        raise InputError(Problem(str(path), 0, 0, f"cannot be read: {reason}")) from None


@lru_cache(maxsize=64)  # files of a folder are read again for each other's controls
def parse(content: bytes, path: str) -> Document:
    """Parse the content of a file; `path` is only for messages. Empty content gives None for its data.

    Raises InputError with every problem that can be told apart: the first error of syntax ends the reading.
    """
    text = _decoded(content, path)
    builder = _Builder(text, path)
    try:
        root = builder.document()
    except _StopReading as stop:
        raise InputError(*sorted({*builder.problems, stop.problem})) from None
    if builder.problems:
        raise InputError(*sorted(builder.problems))
    return Document(path, root.data, root)


def _decoded(content: bytes, path: str) -> str:
    if len(content) > MAX_BYTES:
        raise InputError(
            Problem(path, 1, 1, f"larger than {MAX_BYTES} bytes (1 MiB), the most a file may have")
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(Problem(path, 1, 1, "encoded as UTF-16; save the file as UTF-8"))
    if content.startswith(b"\xef\xbb\xbf"):
        raise InputError(
            Problem(path, 1, 1, "begins with a byte order mark; save the file as UTF-8 without one")
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line, column = _place(content[: error.start].decode())
        message = f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise InputError(Problem(path, line, column, message)) from None
    unfit = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unfit:
        line, column = _place(text[: unfit.start()])
        message = f"the character U+{ord(unfit.group()):04X} may not stand in YAML"
        raise InputError(Problem(path, line, column, message))
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _StopReading(Exception):
    """Nothing after this problem can be read."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


class _Builder:
    """Builds the nodes of one document from parser events: nothing is held that was not counted first."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._events = _events(text, path)
        self._count = 0
        self._anchors: dict[str | None, _Node | None] = {}

    def document(self) -> _Node:
        next(self._events)  # the stream's start
        if next(self._events).kind is yaml.StreamEndEvent:
            return _Node(None, 1, 1)
        root = self._node(next(self._events), 1)
        next(self._events)  # the document's end
        event = next(self._events)
        if event.kind is not yaml.StreamEndEvent:
            self._stop(event, "a second document begins here; a file holds one")
        return root

    def _problem(self, event: _Event, message: str) -> Problem:
        return Problem(self.path, event.line, event.column, message)

    def _stop(self, event: _Event, message: str) -> NoReturn:
        raise _StopReading(self._problem(event, message))

    def _node(self, event: _Event, depth: int) -> _Node:
        if event.kind is yaml.AliasEvent:
            return self._alias(event, depth)
        self._grow(event, 1, depth)
        if event.tag is not None:
            self.problems.append(self._problem(event, f"tags such as {_cut(event.tag)} are not supported"))
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.kind is yaml.MappingStartEvent:
            node = self._mapping(event, depth)
        elif event.kind is yaml.SequenceStartEvent:
            node = self._sequence(event, depth)
        else:
            node = self._scalar(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _grow(self, event: _Event, size: int, bottom: int) -> None:
        self._count += size
        if bottom > MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        if self._count > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases expanded")

    def _alias(self, event: _Event, depth: int) -> _Node:
        alias = _cut(event.anchor or "")
        if event.anchor not in self._anchors:
            self._stop(event, f"alias {alias} has no anchor of that name before it")
        node = self._anchors[event.anchor]
        if node is None:
            self._stop(event, f"alias {alias} stands inside what it refers to")
        self._grow(event, node.size, depth + node.height - 1)
        return node

    def _mapping(self, start: _Event, depth: int) -> _Node:
        children: dict[str | int, _Node] = {}
        keys: dict[str | int, tuple[int, int]] = {}
        while (event := next(self._events)).kind is not yaml.MappingEndEvent:
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            problem = self._key_problem(key, event, keys)
            if problem:
                self.problems.append(self._problem(event, problem))
            else:
                children[key.data] = value
                keys[key.data] = (event.line, event.column)
        return _gathered({key: child.data for key, child in children.items()}, start, children, keys)

    def _key_problem(self, key: _Node, event: _Event, keys: dict[str | int, tuple[int, int]]) -> str | None:
        if isinstance(key.data, dict | list):
            return "a key must be plain text, not a mapping or a list"
        if not isinstance(key.data, str):
            return f"a key must be text; put {event.value or 'nothing'} in quotes"
        if key.data == "<<" and event.plain:
            return "merge keys ('<<') are not supported; write the keys out"
        if key.data in keys:
            return f"key {_cut(key.data)} is written twice; first in line {keys[key.data][0]}"
        return None

    def _sequence(self, start: _Event, depth: int) -> _Node:
        children: dict[str | int, _Node] = {}
        while (event := next(self._events)).kind is not yaml.SequenceEndEvent:
            children[len(children)] = self._node(event, depth + 1)
        keys = {index: (child.line, child.column) for index, child in children.items()}
        return _gathered([child.data for child in children.values()], start, children, keys)

    def _scalar(self, event: _Event) -> _Node:
        data: Any = event.value
        if event.plain:
            try:
                data = resolved(event.value)
            except ValueError as error:
                self._stop(event, str(error))
        elif "\0" in data or any("\ud800" <= character <= "\udfff" for character in data):
            self._stop(
                event, "the text holds an escaped character that no text may hold (NUL or half a pair)"
            )
        return _Node(data, event.line, event.column)


def _gathered(
    data: Any, start: _Event, children: dict[str | int, _Node], keys: dict[str | int, tuple[int, int]]
) -> _Node:
    size = 1 + sum(child.size for child in children.values())
    height = 1 + max((child.height for child in children.values()), default=0)
    return _Node(data, start.line, start.column, size, height, children, keys)


def _events(text: str, path: str) -> Iterator[_Event]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_event():
            event = loader.get_event()  # type: ignore[no-untyped-call]  # the stubs lack its type
            mark = event.start_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            plain = isinstance(event, yaml.ScalarEvent) and event.style is None
            yield _Event(type(event), line, column, getattr(event, "value", ""), anchor, tag, plain)
    except yaml.MarkedYAMLError as error:
        found = error.problem_mark or error.context_mark
        line, column = (found.line + 1, found.column + 1) if found else (1, 1)
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise _StopReading(Problem(path, line, column, f"not YAML: {reason}")) from None
    except (ValueError, OverflowError, IndexError):
        # PyYAML passes escapes such as "\UFFFFFFFF" and overlong directives to chr() and int() unchecked
        reason = "an escape or a directive holds a number out of range"
        problem = Problem(path, loader.line + 1, loader.column + 1, f"not YAML: {reason}")
        raise _StopReading(problem) from None


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
