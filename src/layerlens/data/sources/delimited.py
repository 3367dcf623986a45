"""`.csv` and `.tsv`: one row a line (a quoted field of a `.csv` may span lines).

A `.tsv` is never quote-parsed: a quotation mark is a character like any other, as in the GLUE files. Lines with
another number of fields than the header are left out and counted; above 1 % of them the file is refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from layerlens.data.sources.decoding import read_text
from layerlens.data.sources.layouts import Layout, find_layout, has_known_header, looks_like_names
from layerlens.data.table import MAX_MALFORMED_SHARE, Table
from layerlens.errors import DataError

Line = tuple[int, list[str]]


def read_delimited(path: Path, wanted: Sequence[str]) -> Table:
    """Read a `.csv` (comma, or semicolon where the first line has no comma) or a file of tab-separated values.

    Args:
        path: The file; anything but `.csv` is tab-separated.
        wanted: Columns that the user asked for, by name or number.

    Raises:
        DataError: the file is empty, undecodable, has no rows, broken quotes or too many malformed lines.
    """
    text = read_text(path)
    lines = list(_csv_lines(path, text) if path.suffix.lower() == ".csv" else _tab_lines(text))
    layout = find_layout(lines[0][1], wanted)
    if len(set(layout.names)) != len(layout.names):
        twice = sorted({name or "without a name" for name in layout.names if layout.names.count(name) > 1})
        raise DataError(f"{path}: column {', '.join(twice)} stands twice in the header; rename one")
    rows = lines[1:] if layout.has_header else lines
    if not rows:
        raise DataError(f"{path} has a header ({', '.join(layout.names)}) but no rows")
    kept, notes = _well_formed(path, rows, layout)
    if wanted and not layout.has_header and looks_like_names(lines[0][1]):
        # One sample too many is little, but its label is a class.
        shown = ", ".join(cell.strip() for cell in lines[0][1])
        notes = (*notes, f"{path}: the first line ({shown}) is read as a row; if it is a header, give columns by their names")
    columns = {name: [cells[place] for _, cells in kept] for place, name in enumerate(layout.names)}
    return Table(
        where=str(path), columns=columns, has_header=layout.has_header, row_names=[number for number, _ in kept], notes=notes
    )


def is_tab_table(path: Path) -> bool:
    """Whether a file that is not called `.tsv` is one: its first line is a header of well-known, tab-separated names."""
    try:
        with path.open("rb") as file:
            head = file.readline(65536).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    cells = head.rstrip("\r\n").split("\t")
    return len(cells) > 1 and has_known_header(cells)


def _tab_lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line:
            yield number, line.split("\t")


def _csv_lines(path: Path, text: str) -> Iterator[Line]:
    first_line = text.split("\n", 1)[0]
    delimiter = ";" if "," not in first_line and ";" in first_line else ","
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; quote fields as CSV does, or save as .tsv") from error


def _well_formed(path: Path, rows: list[Line], layout: Layout) -> tuple[list[Line], tuple[str, ...]]:
    """Keep the lines with the right number of fields; tell how many were left out."""
    fewest, most = len(layout.names), len(layout.names) + layout.num_optional
    kept = [row for row in rows if fewest <= len(row[1]) <= most]
    num_bad = len(rows) - len(kept)
    if not num_bad:
        return kept, ()
    number, cells = next(row for row in rows if not fewest <= len(row[1]) <= most)
    fault = f"{path}: {num_bad} of {len(rows)} lines do not have {fewest} fields (first: line {number} has {len(cells)})"
    if num_bad > MAX_MALFORMED_SHARE * len(rows):
        raise DataError(f"{fault}; check the delimiter and the quotes")
    return kept, (f"{fault}; they are left out",)
