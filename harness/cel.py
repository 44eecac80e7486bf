"""An egress proxy's policy in CEL, as Envoy evaluates it of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.programs import svid

if TYPE_CHECKING:
    from harness.proxy import Rule

_FIRST = "connection.uri_san_peer_certificate"
"""CEL's name of the first URI name."""


def first_match(rules: Sequence[Rule], values: Sequence[str], otherwise: str, names: str) -> str:
    """Return an expression for the value of the first rule that matches a certificate's one name.

    `names` is the key of the filter state with all URI names of the certificate, joined.
    """
    expression = _text(otherwise)
    for rule, value in reversed(list(zip(rules, values, strict=True))):
        matches = f"{_FIRST} == {_text(rule.spiffe_id or '')}"
        if rule.spiffe_id is None:
            matches = f"{_FIRST}.startsWith({_text(rule.spiffe_prefix or '')})"
        expression = f"({matches}) ? {_text(value)} : ({expression})"
    # the list of all names, joined, is as long as the first where there is no other
    only = f"has({_FIRST}) && size(filter_state['{names}']) == size({_FIRST})"
    return f"({only} && {_IS_SPIFFE_ID}) ? ({expression}) : {_text(otherwise)}"


def _text(value: str) -> str:
    """Return a string: what is not plain is escaped, so that no parser before CEL's takes it."""
    plain = "-./: "
    escaped = (c if (c.isascii() and c.isalnum()) or c in plain else f"\\U{ord(c):08x}" for c in value)
    return "'" + "".join(escaped) + "'"


_IS_SPIFFE_ID = " && ".join(
    (
        f"size({_FIRST}) <= {svid.LONGEST}",
        f"{_FIRST}.matches({_text('^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$')})",
        *(f"!{_FIRST}.contains({_text(dots)})" for dots in ("/./", "/../")),
        *(f"!{_FIRST}.endsWith({_text(dots)})" for dots in ("/.", "/..")),
    )
)
"""What programs/svid.py says of a name's form; CEL's regular expressions (RE2) have no way to say `but not`."""
