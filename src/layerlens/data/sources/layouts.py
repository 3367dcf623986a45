"""Whether the first row of a delimited file is a header, and what the columns of a file without one are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerlens.data.columns import HEADER_NAMES

MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class Layout:
    """Columns of a file, and how many more a line may have at its end."""

    names: tuple[str, ...]
    has_header: bool
    num_optional: int = 0


@dataclass(frozen=True)
class KnownLayout:
    """A published form without a header, recognised by its first row."""

    layout: Layout
    matches: Callable[[Sequence[str]], bool]


KNOWN_LAYOUTS = (
    # CoLA: source, label, the author's mark, sentence.
    KnownLayout(
        Layout(("source", "label", "mark", "sentence"), has_header=False),
        lambda cells: len(cells) == 4 and cells[1] in ("0", "1") and cells[2] in ("", "*"),
    ),
    # STS benchmark as first published; up to two fields with licences may follow the sentences.
    KnownLayout(
        Layout(("genre", "file", "year", "index", "score", "sentence1", "sentence2"), has_header=False, num_optional=2),
        lambda cells: 7 <= len(cells) <= 9 and cells[2][:4].isdecimal() and is_number(cells[4]) and 0 <= float(cells[4]) <= 5,
    ),
)


def find_layout(first_row: Sequence[str], wanted: Sequence[str]) -> Layout:
    """Tell what the columns are called.

    Args:
        first_row: Cells of the first row.
        wanted: Columns that the user asked for. A name that stands in the first row makes it a header; numbers alone
            mean that there is none, unless the row holds a well-known column name.

    Returns:
        Names from the header, from a known layout, or `0`, `1`, … for a file without a header.
    """
    names = tuple(cell.strip() for cell in first_row)
    numbered = Layout(tuple(str(number) for number in range(len(names))), has_header=False)
    if any(name in names for name in wanted if not name.isdecimal()) or has_known_header(first_row):
        return Layout(names, has_header=True)
    for known in KNOWN_LAYOUTS:
        if known.matches(first_row):
            return known.layout
    if wanted and all(name.isdecimal() for name in wanted):
        return numbered
    return Layout(names, has_header=True) if looks_like_names(first_row) else numbered


def has_known_header(cells: Sequence[str]) -> bool:
    """Whether a row is the header of a table: a well-known name among its cells, and no number."""
    names = [cell.strip() for cell in cells]
    return any(name.casefold() in HEADER_NAMES for name in names) and not any(is_number(name) for name in names)


def looks_like_names(cells: Sequence[str]) -> bool:
    """Whether a row could be a header: short and different cells, none of them empty or a number."""
    names = [cell.strip() for cell in cells]
    return all(0 < len(name) <= MAX_NAME_LENGTH and not is_number(name) for name in names) and len(set(names)) == len(names)


def is_number(cell: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
