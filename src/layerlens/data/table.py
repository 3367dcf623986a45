"""What every source hands over: named columns of rows, and what the source itself knows about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_MALFORMED_SHARE = 0.01
"""Above this share of unusable rows a source is refused; below it they are left out and counted in a note."""


class Form(StrEnum):
    """What the rows hold; steers the guess of the task."""

    TABLE = "table"
    TEXT = "text"
    SQUAD = "squad"
    IMAGES = "images"


@dataclass(frozen=True)
class Table:
    """Rows of a source, by column; values are as the source holds them (text, numbers, arrays, paths)."""

    where: str
    """What to call the source in a message."""
    columns: Mapping[str, Sequence[Any]]
    form: Form = Form.TABLE
    has_header: bool = True
    """False where columns are numbered from 0, or named by a layout that the rows were recognised by."""
    splits: tuple[str, ...] | None = None
    """`train`, `validation` or `test` of each row, where the source fixes it."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of a column's integer labels, where the source knows them."""
    text_columns: tuple[str, ...] = ()
    """Input columns, where the source itself knows them."""
    label_column: str | None = None
    row_names: Sequence[int] | None = None
    """Line number of each row, for messages; rows are counted from 1 where there is none."""
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def row_name(self, row: int) -> str:
        """How a message names a row."""
        return f"row {row + 1}" if self.row_names is None else f"line {self.row_names[row]}"


class LazyColumn(Sequence[Any]):
    """A column whose values are made on access (a cell of an Arrow table, an image of a folder)."""

    def __init__(self, rows: Any, num_rows: int, stamp: Callable[[int], bytes] | None = None) -> None:
        """Wrap `rows`, anything with `rows(index)` for a value; `stamp` tells a value that has changed, without making it."""
        self._rows = rows
        self._num_rows = num_rows
        self.stamp = stamp

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._rows(row) for row in range(*index.indices(self._num_rows))]
        return self._rows(range(self._num_rows)[index])

    def __iter__(self) -> Iterator[Any]:
        return (self._rows(row) for row in range(self._num_rows))
