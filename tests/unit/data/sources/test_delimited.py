from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.data.sources.delimited import is_tab_table, read_delimited
from layerlens.data.table import Table
from layerlens.errors import DataError


def _read(path: Path, content: str | bytes, *wanted: str) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_delimited(path, wanted)


def test_a_tsv_is_never_quote_parsed(tmp_path: Path) -> None:
    table = _read(tmp_path / "a.tsv", 'sentence\tlabel\n"open quote\t1\nshe said "no"\t0\n')
    assert table.columns == {"sentence": ['"open quote', 'she said "no"'], "label": ["1", "0"]}


def test_only_line_feeds_end_a_tsv_line(tmp_path: Path) -> None:
    table = _read(tmp_path / "a.tsv", "sentence\tlabel\r\none\u2028still one\x85\t1\r\ntwo\t0\r\n")
    assert table.columns["sentence"] == ["one\u2028still one\x85", "two"]
    assert table.columns["label"] == ["1", "0"]


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert list(_read(tmp_path / "a.tsv", b"\xef\xbb\xbfQuality\t#1 String\n1\ta b\n").columns) == ["Quality", "#1 String"]


def test_a_csv_is_quote_parsed_across_lines(tmp_path: Path) -> None:
    table = _read(tmp_path / "a.csv", 'text,label\n"a, ""b""\nc",1\nd,0\n')
    assert table.columns == {"text": ['a, "b"\nc', "d"], "label": ["1", "0"]}


def test_a_csv_may_use_semicolons(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", "text;label\na, b;1\n").columns == {"text": ["a, b"], "label": ["1"]}


def test_broken_quotes_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv: line 3: .*quote fields as CSV does"):
        _read(tmp_path / "a.csv", 'text,label\nb,0\n"a"b,1\n')


def test_a_long_field_is_read(tmp_path: Path) -> None:
    text = "word " * 60_000
    assert _read(tmp_path / "a.csv", f'text,label\n"{text}",1\n').columns["text"] == [text]


def test_a_few_malformed_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [f"text {number}\t{number % 2}" for number in range(200)]
    lines[5] += "\textra"
    path = tmp_path / "a.tsv"
    table = _read(path, "sentence\tlabel\n" + "\n".join(lines))
    assert table.num_rows == 199
    assert table.notes == (f"{path}: 1 of 200 lines do not have 2 fields (first: line 7 has 3); they are left out",)
    # Rows after the malformed one still know their line.
    assert table.row_name(5) == "line 8"


def test_many_malformed_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 3 lines do not have 2 fields \(first: line 2 has 1\); check the delimiter"):
        _read(tmp_path / "a.tsv", "sentence\tlabel\nonly text\nanother\ntext\t1\n")


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has a header \(sentence, label\) but no rows"):
        _read(tmp_path / "a.tsv", "sentence\tlabel\n")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column text stands twice"):
        _read(tmp_path / "a.csv", "text,text,label\na,b,1\n")


def test_numbers_ask_for_a_file_without_a_header(tmp_path: Path) -> None:
    table = _read(tmp_path / "a.tsv", "good film\tpos\nbad film\tneg\n", "0", "1")
    assert not table.has_header
    assert table.columns == {"0": ["good film", "bad film"], "1": ["pos", "neg"]}


def test_a_first_line_that_could_be_a_header_is_told_where_it_is_read_as_a_row(tmp_path: Path) -> None:
    table = _read(tmp_path / "a.csv", "phrase,kind\ngood film,pos\n", "0", "1")
    assert table.num_rows == 2
    assert table.notes == (
        f"{tmp_path / 'a.csv'}: the first line (phrase, kind) is read as a row; if it is a header, give columns by their names",
    )
    assert _read(tmp_path / "b.csv", "good film,1\n", "0", "1").notes == ()


def test_a_file_that_is_called_otherwise_is_a_table_by_its_header_alone(tmp_path: Path) -> None:
    header, prose, tabbed = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    header.write_text("\ufeffQuality\t#1 ID\t#1 String\n", encoding="utf-8")
    prose.write_text("A sentence about the label.\n", encoding="utf-8")
    tabbed.write_text("chapter\tone\n", encoding="utf-8")
    assert [is_tab_table(path) for path in (header, prose, tabbed)] == [True, False, False]
