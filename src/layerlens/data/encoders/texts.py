"""One text or a pair of texts with a class or a number: classification and regression."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.columns import choose_columns, num_texts_of
from layerlens.data.encoders.prepared import Prepared, check_room, sample_length, splits_of, takes_token_types, usable_rows
from layerlens.data.example import Example
from layerlens.data.labels import NO_HEAD, HeadLabels, class_labels, is_missing, regression_targets
from layerlens.data.lazy import Encoder
from layerlens.data.table import Table
from layerlens.words import TaskKind


class TextEncoder(Encoder):
    """Tokenises one text or a pair, cut at `max_length` (of a pair, the longer text first)."""

    def __init__(
        self, texts: Sequence[Sequence[str]], labels: Sequence[float], tokenizer: Any, *, max_length: int, has_token_types: bool
    ) -> None:
        """Hold what is to be encoded.

        Args:
            texts: One list of texts, or two of equal length for pairs.
            labels: Class index or number of each sample.
            tokenizer: The model's tokenizer.
            max_length: Tokens per sample at most, special ones included.
            has_token_types: Whether the model takes `token_type_ids`.
        """
        self._texts = texts
        self._labels = labels
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._has_token_types = has_token_types

    def __len__(self) -> int:
        return len(self._labels)

    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Tokenise the rows in one call."""
        columns = [[column[row] for row in rows] for column in self._texts]
        if len(columns) == 2 and not _has_separator(self._tokenizer):
            # A decoder's tokenizer would glue the second text to the last word of the first.
            columns = [[f"{first}\n{second}" for first, second in zip(*columns, strict=True)]]
        encoded = self._tokenizer(
            *columns,
            truncation=True,
            max_length=self._max_length,
            padding=False,
            return_attention_mask=True,
            return_token_type_ids=self._has_token_types,
            verbose=False,
        )
        examples = []
        for place, row in enumerate(rows):
            example: Example = {name: list(encoded[name][place]) for name in encoded}
            if not example["input_ids"]:
                # Characters that the tokenizer drops altogether: one neutral token stands for them.
                neutral = self._tokenizer.unk_token_id
                example["input_ids"] = [self._tokenizer.eos_token_id if neutral is None else neutral]
                example["attention_mask"] = [1]
            example["labels"] = self._labels[row]
            examples.append(example)
        return examples

    def source(self, row: int) -> bytes:
        """The texts and the label."""
        return json.dumps([*(column[row] for column in self._texts), self._labels[row]]).encode()


def prepare_texts(
    kind: TaskKind,
    table: Table,
    config: DataConfig,
    known: TaskInfo | None,
    checkpoint_config: dict[str, Any],
    tokenizer: Any,
    head: HeadLabels = NO_HEAD,
) -> Prepared:
    """Choose columns, leave out rows without text or label, and map the labels.

    Raises:
        DataError: the source's columns, rows or labels do not fit the task.
    """
    columns = choose_columns(table, config, known, needs_label=True, num_texts=num_texts_of(kind))
    texts = [list(table.columns[name]) for name in columns.text]
    label = str(columns.label)
    labels = list(table.columns[label])
    rows, notes = usable_rows(
        table,
        lambda row: not is_missing(labels[row]) and all(isinstance(text[row], str) and text[row].strip() for text in texts),
        f"no text in {' or '.join(columns.text)} or no label in {label}",
    )
    targets: Sequence[float]
    names: list[str] = []
    if kind is TaskKind.REGRESSION:
        targets = regression_targets(label, labels, table, rows)
    else:
        targets, names = class_labels(label, labels, table, rows, known.label_names if known is not None else None, head)
    max_length, length_notes = sample_length(config, known, checkpoint_config, tokenizer)
    check_room(max_length, len(texts), tokenizer)
    info = TaskInfo(
        kind=kind,
        num_labels=len(names) or 1,
        label_names=names,
        text_columns=list(columns.text),
        label_column=label,
        max_length=max_length,
    )
    encoder = TextEncoder(
        [[text[row] for row in rows] for text in texts],
        targets,
        tokenizer,
        max_length=max_length,
        has_token_types=takes_token_types(checkpoint_config, tokenizer),
    )
    roles = dict(zip(("text", "text_pair"), columns.text)) | {"label": label}
    return Prepared(info, encoder, splits_of(table, rows), roles, (*table.notes, *notes, *length_notes))


def _has_separator(tokenizer: Any) -> bool:
    return bool(tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False))
