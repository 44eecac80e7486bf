"""HTML and SVG from Python values: whatever is put into an element is escaped, unless it is an element itself.

And rows of Markdown's tables, in which a cell cannot end the cell.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010fffd]")
"""Control characters, surrogates and noncharacters: HTML has no way to write them, and XML 1.0 none for most."""

_VOID = {"br", "circle", "line", "meta", "path", "polygon", "polyline", "rect", "use"}
"""Elements with nothing in them; a slash at their end is right in HTML, SVG and XML."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Return a value as text that stands for itself; markup stays what it is."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", str(value))))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element. Attributes that are None or False are left out.

    In their names an underscore stands for a hyphen; one at the end is dropped (`class_`).
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Return several values one after the other."""
    return Markup("".join(escaped(part) for part in parts))


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown, with its line end."""
    written = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(written) + " |\n"
