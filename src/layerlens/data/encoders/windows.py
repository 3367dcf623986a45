"""Running text in windows of `max_length` tokens, for causal language modelling.

Documents are tokenised whole, each with the special tokens its tokenizer adds by itself (or, where it adds none, with
its end-of-text token after each of several), concatenated within their split, and cut. The last window of a split is as
long as what is left, and left out if it predicts nothing (one token). All text is tokenised at once: windows are known
only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import choose_text_columns
from layerlens.data.encoders.prepared import Prepared, sample_length
from layerlens.data.example import Example
from layerlens.data.lazy import Encoder
from layerlens.data.table import Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

DOCUMENTS_PER_CALL = 1000


class WindowEncoder(Encoder):
    """Slices of one long array of tokens."""

    def __init__(self, tokens: Sequence[np.ndarray], max_length: int) -> None:
        """Hold the tokens of each split (int32), and note where each window starts and ends."""
        self._tokens = tokens
        self._places = [
            (split, start, min(start + max_length, len(ids)))
            for split, ids in enumerate(tokens)
            for start in range(0, len(ids), max_length)
            if min(start + max_length, len(ids)) - start > 1
        ]

    def __len__(self) -> int:
        return len(self._places)

    def split_of(self, row: int) -> int:
        """Which of the arrays a window is cut from."""
        return self._places[row][0]

    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Cut the windows; labels are the tokens themselves, as Hugging Face models shift them."""
        examples = []
        for row in rows:
            split, start, end = self._places[row]
            ids = self._tokens[split][start:end].tolist()
            examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": list(ids)})
        return examples

    def source(self, row: int) -> bytes:
        """The tokens of the window."""
        split, start, end = self._places[row]
        return self._tokens[split][start:end].tobytes()


def prepare_windows(
    table: Table, config: DataConfig, known: TaskInfo | None, checkpoint_config: dict[str, Any], tokenizer: Any
) -> Prepared:
    """Tokenise the text columns (several are joined by a line feed) and cut windows.

    Raises:
        DataError: no text column can be told, or the text holds fewer than two tokens.
    """
    texts = choose_text_columns(table, config, known)
    max_length, notes = sample_length(config, known, checkpoint_config, tokenizer)
    if max_length < 2:
        raise DataError(f"max_length is {max_length}, but a window that predicts a token needs at least 2; give --max-length")
    splits = sorted(set(table.splits or ("train",)), key=("train", "validation", "test").index)
    documents: dict[str, list[str]] = {split: [] for split in splits}
    for row, cells in enumerate(zip(*(table.columns[name] for name in texts), strict=True)):
        present = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
        if present:
            documents["train" if table.splits is None else table.splits[row]].append("\n".join(present))
    encoder = WindowEncoder([_tokenised(documents[split], tokenizer) for split in splits], max_length)
    if len(encoder) == 0:
        raise DataError(f"{table.where}: column {', '.join(texts)} holds fewer than two tokens; give longer text")
    info = TaskInfo(kind=TaskKind.CAUSAL_LM, text_columns=list(texts), max_length=max_length)
    window_splits = [splits[encoder.split_of(row)] for row in range(len(encoder))] if table.splits is not None else None
    return Prepared(info, encoder, window_splits, {"text": ", ".join(texts)}, (*table.notes, *notes))


def _tokenised(documents: list[str], tokenizer: Any) -> np.ndarray:
    """Tokens of all documents, one after the other, as int32."""
    ends = tokenizer.num_special_tokens_to_add() == 0 and len(documents) > 1 and tokenizer.eos_token_id is not None
    tail = [tokenizer.eos_token_id] if ends else []
    pieces = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(documents), DOCUMENTS_PER_CALL):
        # `verbose=False`: text longer than the model's limit is meant, it is cut into windows below.
        encoded = tokenizer(documents[start : start + DOCUMENTS_PER_CALL], return_attention_mask=False, verbose=False)
        pieces.extend(np.array([*ids, *tail], dtype=np.int32) for ids in encoded["input_ids"])
    return np.concatenate(pieces)
