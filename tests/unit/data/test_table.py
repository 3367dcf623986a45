from __future__ import annotations

from layerlens.data.table import LazyColumn, Table


def test_a_lazy_column_makes_only_the_values_asked_for() -> None:
    made: list[int] = []

    def value(row: int) -> int:
        made.append(row)
        return row * 10

    column = LazyColumn(value, 5)
    assert column[3] == 30
    assert column[-1] == 40
    assert column[1:3] == [10, 20]
    assert made == [3, 4, 1, 2]
    assert list(column) == [0, 10, 20, 30, 40]


def test_rows_are_named_by_their_line_where_it_is_known() -> None:
    assert Table(where="x", columns={"a": [1, 2]}).row_name(1) == "row 2"
    assert Table(where="x", columns={"a": [1, 2]}, row_names=[2, 5]).row_name(1) == "line 5"
