"""A section of the page, and the figure and table that sections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerlens.reporting.chart import Chart, chart_box
from layerlens.reporting.markup import Child, Markup, element, join


@dataclass(frozen=True)
class Section:
    """One part of the page under its own heading."""

    id: str
    title: str
    body: Markup
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Column:
    """A table's column: its head, whether it holds numbers, and whether a click on the head sorts by it."""

    head: str
    is_number: bool = False
    is_mono: bool = False


@dataclass(frozen=True)
class Cell:
    """A table's cell: what it shows, and what it sorts by where that differs."""

    content: Child
    key: float | str | None = None


def module_path(layer: str) -> Markup:
    """A module path that may be broken after its dots."""
    first, *rest = layer.split(".")
    return join([first, *(join([".", element("wbr"), part]) for part in rest)])


def block_cell(block: int | None) -> Cell:
    """The index of a block; what lies outside the blocks comes first."""
    return Cell("–" if block is None else str(block), -1 if block is None else block)


def figure(body: Markup, caption: Child, *, title: str | None = None, class_: str | None = None) -> Markup:
    """A picture with a caption that says how to read it."""
    head = None if title is None else element("h3", title)
    classes = "figure" if class_ is None else f"figure {class_}"
    return element("figure", head, body, element("figcaption", caption), class_=classes)


def chart_figure(chart: Chart, caption: Child, *, title: str | None = None) -> Markup:
    """A chart with its caption."""
    return figure(chart_box(chart), caption, title=title)


def table(
    label: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell | Child]],
    *,
    highlighted: Sequence[bool] = (),
    is_sortable: bool = False,
    is_tall: bool = False,
) -> Markup:
    """A table that scrolls inside its own box, with the first column as row heads.

    Args:
        label: What the table holds, for readers who do not see it.
        columns: Heads, in order.
        rows: One cell per column.
        highlighted: Which rows stand out; none if empty.
        is_sortable: Whether a click on a head sorts.
        is_tall: Whether the box is limited in height, the head staying in sight.
    """
    heads = [
        element(
            "th",
            element("button", column.head, type="button") if is_sortable else column.head,
            scope="col",
            class_=_class(column),
        )
        for column in columns
    ]
    body = []
    for number, row in enumerate(rows):
        cells = [_cell(entry, column, is_head=place == 0) for place, (entry, column) in enumerate(zip(row, columns, strict=True))]
        is_marked = bool(highlighted) and highlighted[number]
        body.append(element("tr", join(cells), class_="marked" if is_marked else None))
    content = element(
        "table",
        element("thead", element("tr", join(heads))),
        element("tbody", join(body)),
        class_="sortable" if is_sortable else None,
    )
    # A box that scrolls must be reachable by keyboard.
    return element("div", content, class_="scroll tall" if is_tall else "scroll", role="region", aria_label=label, tabindex=0)


def _cell(entry: Cell | Child, column: Column, *, is_head: bool) -> Markup:
    cell = entry if isinstance(entry, Cell) else Cell(entry)
    key = None if cell.key is None else str(cell.key)
    if is_head:
        return element("th", cell.content, scope="row", class_=_class(column), data_key=key)
    return element("td", cell.content, class_=_class(column), data_key=key)


def _class(column: Column) -> str | None:
    names = [name for name, is_so in (("num", column.is_number), ("mono", column.is_mono)) if is_so]
    return " ".join(names) or None
