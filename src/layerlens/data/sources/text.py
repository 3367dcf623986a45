"""Plain text: one document in one row."""

from __future__ import annotations

from pathlib import Path

from layerlens.data.sources.decoding import read_text
from layerlens.data.table import Form, Table


def read_plain_text(path: Path) -> Table:
    """Read any UTF-8 file as one document; raises `DataError` where it is empty, binary or undecodable."""
    return Table(where=str(path), columns={"text": [read_text(path)]}, form=Form.TEXT, text_columns=("text",))
