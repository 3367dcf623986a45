from __future__ import annotations

from pathlib import Path

from layerlens.data.sources.text import read_plain_text
from layerlens.data.table import Form


def test_a_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    table = read_plain_text(path)
    assert table.form is Form.TEXT
    assert table.columns == {"text": ["one\n\ntwo\n"]}
