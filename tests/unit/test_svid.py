"""Whose a certificate is: read from bytes that cryptography wrote, by the rules that SPIFFE has for validators."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.identity import Request, Shape, authority, sign
from harness.programs.svid import LONGEST, Names, identity_of, is_spiffe_id, names_of

WHO = "spiffe://cluster.local/ns/prod/sa/app"
MESH = authority("mesh", "Root", "Intermediate")


def der(request: Request, shape: Shape | None = None) -> bytes:
    """Return the bytes of a certificate that is made for this."""
    first = sign(MESH, request, shape or Shape()).chain.partition("-----END")[0]
    return base64.b64decode(first.partition("CERTIFICATE-----")[2])


@pytest.mark.parametrize(
    "name",
    [
        WHO,
        "spiffe://a/b",
        "spiffe://a_b.c-d/x.y/..z/Z_9",
        f"spiffe://{'d' * 255}/x",
        "spiffe://a/" + "x" * (LONGEST - 11),
    ],
)
def test_a_spiffe_id(name: str) -> None:
    """A trust domain in lower case and at least one segment, at most 255 and 2048 bytes, is an identity."""
    assert is_spiffe_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "spiffe://",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe:///ns/prod",
        "SPIFFE://cluster.local/a",
        "https://cluster.local/a",
        "spiffe://Cluster.local/a",
        "spiffe://user@cluster.local/a",
        "spiffe://cluster.local:443/a",
        "spiffe://cluster.local/a/",
        "spiffe://cluster.local//a",
        "spiffe://cluster.local/a//b",
        "spiffe://cluster.local/./a",
        "spiffe://cluster.local/a/..",
        "spiffe://cluster.local/a/../b",
        "spiffe://cluster.local/%61",
        "spiffe://cluster.local/a?b",
        "spiffe://cluster.local/a#b",
        "spiffe://cluster.local/a\0b",
        "spiffe://cluster.local/a\n",
        "spiffe://cluster.local/\u00e4",
        f"spiffe://{'d' * 256}/x",
        "spiffe://a/" + "x" * (LONGEST - 10),
    ],
)
def test_no_spiffe_id(name: str) -> None:
    """Whatever would have to be decoded, folded or resolved before it is compared is no identity."""
    assert not is_spiffe_id(name)


def test_a_leafs_names_are_read() -> None:
    """URI names come in the certificate's order; names of other kinds are none."""
    both = Request("x", uris=(WHO, "spiffe://a/b"), dns=(WHO,))
    assert names_of(der(both, Shape(emails=("a@b.example",)))) == Names(
        (WHO, "spiffe://a/b"), authority=False
    )
    assert names_of(der(Request("x"), Shape(common_name=WHO))) == Names((), authority=False)


def test_an_authority_is_told_by_its_flag() -> None:
    """A certificate that may sign others is nobody's identity, whatever its name."""
    names = names_of(der(Request("x", uris=(WHO,)), Shape(authority=True)))
    assert names == Names((WHO,), authority=True)
    assert identity_of(names) == (None, "an authority's certificate")


@pytest.mark.parametrize(
    ("uris", "identity", "reason"),
    [
        ((WHO,), WHO, ""),
        ((), None, "no URI names"),
        ((WHO, WHO), None, "2 URI names"),
        ((f"{WHO}/",), None, "no SPIFFE ID"),
    ],
)
def test_exactly_one_spiffe_id_is_an_identity(
    uris: tuple[str, ...], identity: str | None, reason: str
) -> None:
    """Where a certificate gives none, the reason is told."""
    assert identity_of(Names(uris, authority=False)) == (identity, reason)


@given(st.data())
def test_what_is_broken_is_said_to_be_and_never_taken_for_another_name(data: st.DataObject) -> None:
    """A certificate that is cut short, or has one byte changed, is read as far as it can be or refused; no crash."""
    good = _GOOD
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.booleans())
    bad = good[:at] if cut else good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    try:
        names = names_of(bad)
    except ValueError:
        return
    assert len(names.uris) <= 1


_GOOD = der(Request("x", uris=(WHO,)))
