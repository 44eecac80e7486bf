"""Plain YAML scalars -> values, by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema)."""

from __future__ import annotations

import re

LONGEST_NUMBER = 64
"""Characters; converting much longer ones takes time that grows with the square of their length."""

_NULL = re.compile(r"(null|Null|NULL|~|)\Z")
_TRUE = re.compile(r"(true|True|TRUE)\Z")
_FALSE = re.compile(r"(false|False|FALSE)\Z")
_DECIMAL = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")


def resolved(text: str) -> bool | int | float | str | None:  # noqa: PLR0911 - the schema's table, row by row
    """Return what a scalar without quotes stands for.

    Raises ValueError when it is a number longer than LONGEST_NUMBER characters.
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    base = 10 * bool(_DECIMAL.match(text)) or 8 * bool(_OCTAL.match(text)) or 16 * bool(_HEX.match(text))
    if (base or _FLOAT.match(text)) and len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of more than {LONGEST_NUMBER} characters")
    if base:
        return int(text if base == 10 else text[2:], base)
    if _FLOAT.match(text):
        return float(text)
    if _NOT_FINITE.match(text):
        return float(text.replace(".", ""))
    return text
