from __future__ import annotations

from layerlens.reporting.markup import Markup, element, join


def test_text_and_attributes_are_escaped() -> None:
    made = element("p", "<b>&", title='"><script>')
    assert made == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;</p>'


def test_what_is_markup_already_is_not_escaped_again() -> None:
    assert element("p", element("b", "a < b")) == "<p><b>a &lt; b</b></p>"


def test_adding_text_to_markup_makes_it_text_again() -> None:
    assert element("p", Markup("<b>") + "x") == "<p>&lt;b&gt;x</p>"


def test_attributes_are_named_as_in_html_and_false_or_none_are_left_out() -> None:
    made = element("td", class_="num", aria_label="x", hidden=True, title=None, open=False, colspan=2)
    assert made == '<td class="num" aria-label="x" hidden colspan="2"></td>'


def test_void_elements_are_not_closed() -> None:
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_children_are_joined_and_none_is_left_out() -> None:
    assert join(["a", None, 3, Markup("<br>")], ", ") == "a, 3, <br>"
