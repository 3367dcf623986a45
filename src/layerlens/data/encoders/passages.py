"""Texts on their own, without labels: for sentence embeddings. Every text of every text column is one sample.

Running text is cut into its paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import choose_columns
from layerlens.data.encoders.prepared import Prepared, check_room, sample_length, takes_token_types
from layerlens.data.encoders.texts import TextEncoder
from layerlens.data.example import Example
from layerlens.data.table import Form, Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

_PARAGRAPH = re.compile(r"\n\s*\n")


class PassageEncoder(TextEncoder):
    """Tokenises one text, without a label."""

    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Tokenise the rows in one call."""
        return [{name: value for name, value in example.items() if name != "labels"} for example in super().encode(rows)]


def prepare_passages(
    table: Table, config: DataConfig, known: TaskInfo | None, checkpoint_config: dict[str, Any], tokenizer: Any
) -> Prepared:
    """Collect the texts of the text columns; empty ones are left out.

    Raises:
        DataError: no text column can be told, or it holds no text.
    """
    columns = choose_columns(table, config, known, needs_label=False, num_texts=None).text
    texts: list[str] = []
    splits: list[str] = []
    for name in columns:
        for row, cell in enumerate(table.columns[name]):
            pieces = _PARAGRAPH.split(cell) if isinstance(cell, str) and table.form is Form.TEXT else [cell]
            found = [piece for piece in pieces if isinstance(piece, str) and piece.strip()]
            texts += found
            splits += ["train" if table.splits is None else table.splits[row]] * len(found)
    if not texts:
        raise DataError(f"{table.where}: column {', '.join(columns)} holds no text; give another --text-columns")
    max_length, notes = sample_length(config, known, checkpoint_config, tokenizer)
    check_room(max_length, 1, tokenizer)
    encoder = PassageEncoder(
        [texts],
        [0.0] * len(texts),
        tokenizer,
        max_length=max_length,
        has_token_types=takes_token_types(checkpoint_config, tokenizer),
    )
    info = TaskInfo(kind=TaskKind.EMBEDDING, text_columns=list(columns), max_length=max_length)
    own_splits = None if table.splits is None else splits
    return Prepared(info, encoder, own_splits, {"text": ", ".join(columns)}, (*table.notes, *notes))
