"""`.parquet` through pyarrow (extra `data`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerlens.data.sources.extras import need
from layerlens.data.table import LazyColumn, Table
from layerlens.errors import DataError


class ArrowColumn(LazyColumn):
    """A column of an Arrow table; cells become Python values on access."""

    def __init__(self, column: Any) -> None:
        super().__init__(lambda row: column[row].as_py(), len(column))
        self._column = column

    def __iter__(self) -> Iterator[Any]:
        return iter(self._column.to_pylist())


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged or has no rows.
    """
    need("pyarrow", "data", f"{path} is a Parquet file")
    import pyarrow
    from pyarrow.parquet import read_table

    try:
        # Memory-mapped and one file at a time: no guess at partitions from the folder's name.
        table = read_table(path, memory_map=True, partitioning=None)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise DataError(f"{path} has columns ({', '.join(table.column_names)}) but no rows")
    return Table(where=str(path), columns={name: ArrowColumn(table.column(name)) for name in table.column_names})
