"""Token ids against the rows of the model's embedding table: a tokenizer with added tokens gives ids that the table lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from layerlens.data.example import Example
from layerlens.errors import DataError


class TokenIds:
    """Refuses samples that the table has no row for.

    The padding id is a row that is needed only once samples of two lengths share a batch.

    Args:
        num_rows: Rows of the table.
        pad_token_id: What the shorter samples of a batch are padded with.
    """

    def __init__(self, num_rows: int, pad_token_id: int) -> None:
        self._num_rows, self._pad_token_id = num_rows, pad_token_id
        self._lengths: set[int] = set()

    @classmethod
    def of(cls, checkpoint_config: dict[str, Any], pad_token_id: int) -> TokenIds | None:
        """For the model of a `config.json`; none where that names no vocabulary."""
        text = checkpoint_config.get("text_config")
        num_rows = checkpoint_config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
        return cls(num_rows, pad_token_id) if isinstance(num_rows, int) else None

    def check(self, examples: Iterable[Example]) -> None:
        """Look at samples that were just encoded; those without tokens pass.

        Raises:
            DataError: an id, or the padding id where it will be needed, is no row.
        """
        for example in examples:
            if ids := example.get("input_ids"):
                self._check(max(ids), "gives")
                self._lengths.add(len(ids))
        if len(self._lengths) > 1:
            self._check(self._pad_token_id, "pads with")

    def _check(self, token_id: int, what: str) -> None:
        if token_id >= self._num_rows:
            raise DataError(
                f"the tokenizer {what} token id {token_id}, but the model's embedding table has {self._num_rows} rows (ids 0 to "
                f"{self._num_rows - 1}); give the tokenizer that the model was trained with, or resize the table and save both"
            )
