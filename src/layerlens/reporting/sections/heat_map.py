"""Blocks × roles as a table of shaded cells: real text that a screen reader, a search and a phone can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from layerlens.reporting.markup import Markup, element, join


@dataclass(frozen=True, order=True)
class Place:
    """A column: its order, the group it stands in, and its name there."""

    order: int
    group: str
    name: str


@dataclass(frozen=True)
class Shade:
    """A cell: what it shows, how strongly it is shaded (0 … 1; None for no shade), and what it says when pointed at."""

    text: str
    share: float | None
    hint: str


def heat_map(label: str, rows: Sequence[int | None], cells: Mapping[tuple[int | None, Place], Shade]) -> Markup:
    """Draw the table.

    Args:
        label: What it shows, for readers who do not see it.
        rows: Blocks from top to bottom; None is what lies outside the blocks.
        cells: By block and column; a missing one stays empty.
    """
    places = sorted({place for _, place in cells})
    groups = [(name, len(list(members))) for name, members in groupby(places, key=lambda place: place.group)]
    head = [
        element("tr", element("th", "Block", scope="col", rowspan=2), join(_group(name, span) for name, span in groups)),
        element("tr", join(element("th", place.name, scope="col") for place in places)),
    ]
    body = [
        element(
            "tr",
            element("th", "–" if row is None else row, scope="row"),
            join(_cell(cells.get((row, place))) for place in places),
        )
        for row in rows
    ]
    content = element("table", element("thead", join(head)), element("tbody", join(body)), class_="heat")
    return element("div", content, class_="scroll tall", role="region", aria_label=label, tabindex=0)


def scale(low: str, high: str) -> Markup:
    """The key to the shades."""
    steps = [element("span", class_="step", style=f"--t:{step / 6:.2f}") for step in range(7)]
    return element(
        "div", element("span", low), element("span", join(steps), class_="steps"), element("span", high), class_="scale"
    )


def _group(name: str, span: int) -> Markup:
    return element("th", name, scope="colgroup", colspan=span)


def _ink(share: float) -> str | None:
    """Which of the theme's inks reads at least 4.3 : 1 on a shade: the light theme changes over later than the dark one."""
    return "strong" if share > 0.77 else "mid" if share > 0.62 else None


def _cell(shade: Shade | None) -> Markup:
    if shade is None:
        return element("td", class_="void")
    if shade.share is None:
        return element("td", shade.text, class_="none", title=shade.hint)
    return element("td", shade.text, class_=_ink(shade.share), style=f"--t:{shade.share:.3f}", title=shade.hint)
