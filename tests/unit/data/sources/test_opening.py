from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerlens.config import DataConfig
from layerlens.data.sources import opening
from layerlens.data.sources.hub import SAVED_SPLITS
from layerlens.data.sources.opening import has_split_to_choose, has_test_split, open_source
from layerlens.data.table import Form, Table
from layerlens.errors import DataError


def _open(data: str | Path) -> Table:
    return open_source(str(data), DataConfig())


def test_a_built_in_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stdlib-docs").mkdir()
    assert _open("stdlib-docs").where == "stdlib-docs"


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.jsonl", '{"text": "x", "label": 1}', Form.TABLE),
        ("a.JSON", '[{"text": "x", "label": 1}]', Form.TABLE),
        ("a.csv", "text,label\nx,1\n", Form.TABLE),
        ("a.tsv", "text\tlabel\nx\t1\n", Form.TABLE),
        ("a.txt", "text\tlabel\nx\t1\n", Form.TABLE),
        ("a.txt", "text and label\n", Form.TEXT),
        ("a.raw", "text and label\n", Form.TEXT),
        ("no_ending", "words", Form.TEXT),
    ],
)
def test_the_ending_decides_how_a_file_is_read(tmp_path: Path, name: str, content: str, form: Form) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert _open(tmp_path / name).form is form


@pytest.mark.parametrize("name", ["gone.csv", "owner/gone.jsonl", "a/b/c", "./here"])
def test_a_missing_file_is_refused_without_asking_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(data: str, split: str | None) -> Table:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(opening, "read_hub", never)
    with pytest.raises(DataError, match=r"no such file or folder.*built-in data: stdlib-docs"):
        _open(name)


def test_an_unknown_name_says_which_are_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(data: str, split: str | None) -> Table:
        raise DataError(f"nothing is called {data}")

    monkeypatch.setattr(opening, "read_hub", nothing)
    with pytest.raises(DataError, match=r"nothing is called stdlib-dcos \(built-in data: stdlib-docs\)"):
        _open("stdlib-dcos")


def test_the_hub_is_asked_for_a_name_that_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Table(where="hub", columns={"text": ["x"]})
    monkeypatch.setattr(opening, "read_hub", lambda data, split: found if (data, split) == ("glue:sst2", "test") else None)
    assert open_source("glue:sst2", DataConfig(split="test")) is found


def test_columns_asked_for_by_number_reach_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("good film\tpos\nbad film\tneg\n", encoding="utf-8")
    table = open_source(str(path), DataConfig(text_columns=["0"], label_column="1"))
    assert json.loads(json.dumps(table.columns)) == {"0": ["good film", "bad film"], "1": ["pos", "neg"]}


def test_a_split_is_chosen_of_what_has_several(tmp_path: Path) -> None:
    for name in ("splits", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "splits" / SAVED_SPLITS).write_text('{"splits": ["train", "test"]}')
    (tmp_path / "a.csv").write_text("text,label\nx,1\n", encoding="utf-8")
    assert has_split_to_choose("glue:sst2")
    assert has_split_to_choose(str(tmp_path / "splits"))
    assert has_test_split(str(tmp_path / "splits"))
    for name in ("stdlib-docs", str(tmp_path / "whole"), str(tmp_path / "a.csv")):
        assert not has_split_to_choose(name)
        assert not has_test_split(name)
