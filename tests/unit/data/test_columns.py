from __future__ import annotations

import pytest

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import Columns, choose_columns, choose_text_columns
from layerlens.data.table import Table
from layerlens.errors import DataError
from layerlens.words import TaskKind


def _table(*names: str, has_header: bool = True) -> Table:
    return Table(where="data", columns={name: [f"{name} one", f"{name} two"] for name in names}, has_header=has_header)


def _choose(table: Table, *, num_texts: int | None = None, known: TaskInfo | None = None, **options: object) -> Columns:
    return choose_columns(table, DataConfig(**options), known, needs_label=True, num_texts=num_texts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), Columns(("#1 String", "#2 String"), "Quality")),
        (("sentence", "label"), Columns(("sentence",), "label")),
        (("index", "question", "sentence", "label"), Columns(("question", "sentence"), "label")),
        (("id", "question1", "question2", "is_duplicate"), Columns(("question1", "question2"), "is_duplicate")),
        (("premise", "hypothesis", "label1", "gold_label"), Columns(("premise", "hypothesis"), "gold_label")),
        (("sentence1", "sentence2", "score"), Columns(("sentence1", "sentence2"), "score")),
        (("Text", "Label"), Columns(("Text",), "Label")),
        (("text", "label", "Label", "Text"), Columns(("text",), "label")),
        (("text", "label", "score"), Columns(("text",), "label")),
    ],
)
def test_well_known_names_are_found(names: tuple[str, ...], expected: Columns) -> None:
    assert _choose(_table(*names)) == expected


def test_the_only_column_of_prose_is_the_text() -> None:
    table = Table(where="data", columns={"utt": ["turn it on", "turn it off"], "lang": ["en", "de"], "label": [0, 1]})
    assert _choose(table) == Columns(("utt",), "label")


def test_columns_are_given_by_name_or_number() -> None:
    table = _table("a", "b", "c")
    assert _choose(table, text_columns=["c"], label_column="a") == Columns(("c",), "a")
    assert _choose(table, text_columns=["2", "1"], label_column="0") == Columns(("c", "b"), "a")


def test_a_missing_label_names_the_columns_and_the_flag() -> None:
    with pytest.raises(DataError, match=r"data: no label column among text, stuff; give --label-column"):
        _choose(_table("text", "stuff"))


def test_two_possible_labels_are_refused() -> None:
    with pytest.raises(DataError, match="score, stars could each be the label; give --label-column"):
        _choose(_table("text", "score", "stars"))


def test_two_possible_texts_are_refused() -> None:
    with pytest.raises(DataError, match=r"could be text or review .*give --text-columns"):
        _choose(_table("text", "review", "label"))


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(DataError, match=r"no label column among .*; .*cannot tell two text columns among .*--text-columns"):
        _choose(_table("a", "b"), num_texts=2)


def test_an_unknown_column_lists_those_there_are() -> None:
    with pytest.raises(DataError, match=r"no column 'body' \(--text-columns\); it has text, label"):
        _choose(_table("text", "label"), text_columns=["body"])


def test_without_a_header_the_first_row_is_shown() -> None:
    with pytest.raises(DataError, match=r"no header; first row: 0='0 one', 1='1 one'"):
        _choose(_table("0", "1", has_header=False))


def test_a_pair_task_needs_two_columns_and_a_single_one_refuses_two() -> None:
    with pytest.raises(DataError, match="takes 2 different text column"):
        _choose(_table("text", "label"), num_texts=2, text_columns=["text"])
    with pytest.raises(DataError, match="takes 1 different text column"):
        _choose(_table("s1", "s2", "label"), num_texts=1, text_columns=["s1", "s2"])
    with pytest.raises(DataError, match="takes 2 different text column"):
        _choose(_table("text", "label"), num_texts=2, text_columns=["text", "text"])


def test_the_label_is_no_text() -> None:
    with pytest.raises(DataError, match="column 'text' is both text and label"):
        _choose(_table("text", "label"), label_column="text", text_columns=["text"])


def test_a_plans_columns_hold_where_the_table_has_them() -> None:
    known = TaskInfo(kind=TaskKind.CLASSIFICATION, text_columns=["body"], label_column="mark")
    assert _choose(_table("body", "text", "mark", "label"), known=known) == Columns(("body",), "mark")
    assert _choose(_table("text", "label"), known=known) == Columns(("text",), "label")
    assert _choose(_table("body", "text", "mark", "label"), known=known, text_columns=["text"]) == Columns(("text",), "mark")


def test_running_text_may_come_from_several_columns() -> None:
    table = _table("prompt", "answer", "text")
    assert choose_text_columns(table, DataConfig(text_columns=["prompt", "answer"]), None) == ("prompt", "answer")
    assert choose_text_columns(table, DataConfig(), None) == ("text",)
