from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerlens.data.sources.json_rows import read_json, read_json_lines
from layerlens.data.table import Form
from layerlens.errors import DataError

ROWS = [{"text": "a", "label": 1}, {"text": "b", "extra": None}]
COLUMNS = {"text": ["a", "b"], "label": [1, None], "extra": [None, None]}


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_become_columns_with_gaps_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", f"\ufeff{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")
    table = read_json_lines(path)
    assert table.columns == COLUMNS
    assert table.row_name(1) == "line 3"


@pytest.mark.parametrize(
    "content",
    [ROWS, {"data": ROWS}, COLUMNS, {"data": COLUMNS}],
    ids=["objects", "objects under data", "columns", "columns under data"],
)
def test_a_json_file_holds_rows_or_columns(tmp_path: Path, content: Any) -> None:
    assert read_json(_write(tmp_path / "a.json", json.dumps(content))).columns == COLUMNS


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(row) for row in ROWS)
    assert read_json(_write(tmp_path / "a.json", text)).columns == COLUMNS


def test_squads_form_is_recognised(tmp_path: Path) -> None:
    qas = [
        {"id": "7", "question": "who", "answers": [{"text": "me", "answer_start": 2}]},
        {"question": "why", "is_impossible": True},
    ]
    content = {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "I me", "qas": qas}]}]}
    table = read_json(_write(tmp_path / "a.json", json.dumps(content)))
    assert table.form is Form.SQUAD
    assert table.columns["answers"] == [{"text": ["me"], "answer_start": [2]}, {"text": [], "answer_start": []}]
    assert table.columns["id"] == ["7", "1"]
    assert table.columns["context"] == ["I me", "I me"]


def test_a_damaged_squad_file_names_the_question(tmp_path: Path) -> None:
    content = {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q"}, {"id": "2"}]}]}]}
    with pytest.raises(DataError, match="question 2 is not in SQuAD's form: 'question'"):
        read_json(_write(tmp_path / "a.json", json.dumps(content)))


def test_squads_form_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SQuAD's form but no question"):
        read_json(_write(tmp_path / "a.json", json.dumps({"data": [{"paragraphs": []}]})))


def test_every_bad_line_is_told_up_to_three(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', "{", "[1]", "nonsense", "2"]
    with pytest.raises(DataError, match=r"line 2: .*; line 3: list in place of an object; line 4: .*; 1 more"):
        read_json_lines(_write(tmp_path / "a.jsonl", "\n".join(lines)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": ', "is no JSON: line 1"),
        ("[]", "holds no rows"),
        ("[1, 2]", "holds no rows"),
        ('"words"', "holds no rows"),
        ('{"a": [1, 2], "b": [1]}', "equally long and not empty, got a: 2, b: 1"),
        ('{"a": []}', "equally long and not empty"),
        ("[{}]", "its objects have no fields"),
    ],
)
def test_json_without_rows_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_json(_write(tmp_path / "a.json", text))


def test_half_of_a_character_is_replaced_and_whole_ones_stay(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.json", r'{"cut \ud83d": ["a \ud83d\ude00 \ude00"]}')
    columns = {"cut \ufffd": ["a \U0001f600 \ufffd"]}
    assert read_json(path).columns == columns
    assert read_json_lines(path).columns == {name: [column] for name, column in columns.items()}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_number_that_python_does_not_read_is_refused(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, f'{{"text": "a", "label": {"1" * 5000}}}')
    with pytest.raises(DataError, match=r"a number of more than 4,300 digits"):
        (read_json if name == "a.json" else read_json_lines)(path)
