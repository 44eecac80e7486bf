"""Values become HTML or SVG in which they are only text."""

from __future__ import annotations

import pytest

from harness.markup import Markup, element, escaped, joined


def test_text_is_escaped_and_markup_is_not() -> None:
    """Markup characters in content and attributes are written as entities; elements go into elements as they are."""
    inner = element("b", "<i>&\"'")
    assert inner == "<b>&lt;i&gt;&amp;&quot;&#x27;</b>"
    assert element("p", inner, 1) == f"<p>{inner}1</p>"
    assert element("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'


def test_an_element_as_an_attribute_is_text() -> None:
    """Markup has its meaning as content only."""
    assert element("p", title=Markup("<b>")) == '<p title="&lt;b&gt;"></p>'


def test_names_of_attributes() -> None:
    """An underscore is a hyphen, one at the end is dropped; None and False leave the attribute out."""
    assert (
        element("line", class_="x", stroke_width=2, open=None, hidden=False)
        == '<line class="x" stroke-width="2"/>'
    )


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x85", "\ud800", "\ufffe", "\ufdd0", "\x7f"])
def test_what_html_cannot_say_is_replaced(character: str) -> None:
    """Control characters, surrogates and noncharacters leave the replacement character, which can be encoded."""
    assert escaped(f"a{character}b").encode() == "a\ufffdb".encode()


def test_line_ends_and_letters_stay() -> None:
    """Tabs, line ends and any script's letters are as they were."""
    assert joined(["a\tb\n", "ä漢🙂"]) == "a\tb\nä漢🙂"
