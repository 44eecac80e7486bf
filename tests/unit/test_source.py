"""YAML text becomes values that know their place, by the rules of YAML 1.2's core schema."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness.errors import InputError, Problem
from harness.source import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-7", -7),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        ("10.4.0.0/24", "10.4.0.0/24"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars(text: str, expected: object) -> None:
    """A plain scalar is what the core schema says, and never a boolean for `on`; quotes make it text."""
    found = parse(f"key: {text}\n".encode(), "x.yaml").data["key"]
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number() -> None:
    """`.nan` is a number that is not one."""
    assert math.isnan(parse(b"key: .nan", "x.yaml").data["key"])


TEXT = b"""\
lab: x
networks:
  dmz: {cidr: 10.4.0.0/24}
nodes: [server-0, agent-0]
rules:
  - name: a
    to: [b, c]
"""


@pytest.mark.parametrize(
    ("loc", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("lab",), (1, 6), (1, 1)),
        (("networks", "dmz"), (3, 8), (3, 3)),
        (("networks", "dmz", "cidr"), (3, 15), (3, 9)),
        (("nodes", 1), (4, 19), (4, 19)),
        (("nodes", "agent-0"), (4, 19), (4, 19)),
        (("rules", 0, "to", 1), (7, 13), (7, 13)),
    ],
)
def test_position(loc: tuple[str | int, ...], value: tuple[int, int], key: tuple[int, int]) -> None:
    """Every value and key knows its line and column; names in a list can be asked for by name."""
    document = parse(TEXT, "x.yaml")
    assert document.position(loc) == value
    assert document.position(loc, key=True) == key


@pytest.mark.parametrize(
    ("loc", "value", "key"),
    [
        (("missing",), (1, 1), (1, 1)),
        (("networks", "dmz", "mtu", "deeper"), (3, 8), (3, 3)),
        (("rules", 7), (6, 3), (5, 1)),
        (("lab", "below"), (1, 6), (1, 1)),
    ],
)
def test_position_of_nothing(
    loc: tuple[str | int, ...], value: tuple[int, int], key: tuple[int, int]
) -> None:
    """What is not there has the place of the nearest thing around it."""
    document = parse(TEXT, "x.yaml")
    assert document.position(loc) == value
    assert document.position(loc, key=True) == key


def test_problem_points_at_the_key_of_a_mapping() -> None:
    """A problem of a mapping or list is shown at its key, one of a scalar at the scalar."""
    document = parse(TEXT, "x.yaml")
    assert document.problem(("networks",), "no") == Problem("x.yaml", 2, 1, "no")
    assert document.problem(("lab",), "no") == Problem("x.yaml", 1, 6, "no")


def test_aliases_expand() -> None:
    """An alias stands for what its anchor marks, and has that place."""
    document = parse(b"a: &a {cidr: 10.4.0.0/24}\nb: *a\n", "x.yaml")
    assert document.data["b"] == {"cidr": "10.4.0.0/24"}
    assert document.position(("b", "cidr")) == (1, 14)
    assert document.position(("b",), key=True) == (2, 1)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~", "null\n...\n"])
def test_empty(text: str) -> None:
    """A file without a value has None for its data; it is the reader's business what that means."""
    assert parse(text.encode(), "x.yaml").data is None


def problems(text: str) -> list[str]:
    """Return the problems of a text, without the name of the file."""
    with pytest.raises(InputError) as caught:
        parse(text.encode(), "x.yaml")
    return [str(problem).removeprefix("x.yaml:") for problem in caught.value.problems]


def test_every_problem_of_form_at_once() -> None:
    """Duplicate keys, tags and keys that are no text do not end the reading: all are reported, in order."""
    assert problems("a: 1\na: 2\n3: x\nb: !t y\nc: {<<: 1}\na: 3\n") == [
        "2:1: key 'a' is written twice; first in line 1",
        "3:1: a key must be text; put 3 in quotes",
        "4:4: tags such as '!t' are not supported",
        "5:5: merge keys ('<<') are not supported; write the keys out",
        "6:1: key 'a' is written twice; first in line 1",
    ]


def test_quoted_merge_sign_is_a_key() -> None:
    """In quotes, << is a key like any other."""
    assert parse(b"'<<': 1", "x.yaml").data == {"<<": 1}


def test_syntax_error_comes_after_what_was_found_before() -> None:
    """The first error of syntax ends the reading, and what was wrong before it is still said."""
    assert problems("a: 1\na: 2\nb: [\n") == [
        "2:1: key 'a' is written twice; first in line 1",
        "4:1: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
    ]


@pytest.mark.parametrize("escape", [r"\ud800", r"\0"])
def test_escapes_that_no_text_may_hold(escape: str) -> None:
    """Half of a surrogate pair and NUL are refused where an escape stands for them, too."""
    assert problems(f'a: "{escape}"\n') == [
        "1:4: the text holds an escaped character that no text may hold (NUL or half a pair)"
    ]


def test_carriage_returns_count_as_line_ends() -> None:
    """A file with Windows line ends has the same places as one without."""
    data: Any = parse(b"a: 1\r\nb: 2\r\n", "x.yaml")
    assert data.data == {"a": 1, "b": 2}
    assert data.position(("b",)) == (2, 4)
