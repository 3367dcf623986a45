from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.data.sources import extras
from layerlens.data.sources.parquet import read_parquet
from layerlens.errors import DataError


def test_columns_are_read_and_cells_are_plain_values(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    path = tmp_path / "a.parquet"
    write_table(pyarrow.table({"text": ["a", None, "c"], "label": [1, 0, 2], "tags": [["x"], [], None]}), path, row_group_size=2)
    table = read_parquet(path)
    assert {name: list(column) for name, column in table.columns.items()} == {
        "text": ["a", None, "c"],
        "label": [1, 0, 2],
        "tags": [["x"], [], None],
    }
    assert table.columns["label"][-1] == 2
    assert table.num_rows == 3


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cannot read .*a.parquet as Parquet"):
        read_parquet(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has columns \(text\) but no rows"):
        read_parquet(tmp_path / "a.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'needs pyarrow; install it with: pip install "layerlens-plan\[data\]"'):
        read_parquet(tmp_path / "a.parquet")
