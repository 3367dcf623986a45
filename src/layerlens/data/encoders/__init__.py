"""From a table to encoded samples: one file per shape of input."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.encoders.images import prepare_images
from layerlens.data.encoders.passages import prepare_passages
from layerlens.data.encoders.prepared import Prepared, check_form
from layerlens.data.encoders.spans import prepare_spans
from layerlens.data.encoders.texts import prepare_texts
from layerlens.data.encoders.windows import prepare_windows
from layerlens.data.labels import HeadLabels
from layerlens.data.table import Table
from layerlens.words import TaskKind

__all__ = ["Prepared", "check_form", "prepare"]


def prepare(
    kind: TaskKind,
    table: Table,
    config: DataConfig,
    known: TaskInfo | None,
    checkpoint_config: dict[str, Any],
    processor: Any,
    head: HeadLabels,
) -> Prepared:
    """Make a table ready to be encoded for a task; raises `DataError` where it does not fit."""
    if kind is TaskKind.IMAGE_CLASSIFICATION:
        return prepare_images(table, config, known, processor, head)
    if kind is TaskKind.QUESTION_ANSWERING:
        return prepare_spans(table, config, known, checkpoint_config, processor)
    if kind is TaskKind.CAUSAL_LM:
        return prepare_windows(table, config, known, checkpoint_config, processor)
    if kind is TaskKind.EMBEDDING:
        return prepare_passages(table, config, known, checkpoint_config, processor)
    return prepare_texts(kind, table, config, known, checkpoint_config, processor, head)
