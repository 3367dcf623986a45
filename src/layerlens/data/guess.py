"""Which task the data are for, where nobody said."""

from __future__ import annotations

from typing import Any

from layerlens.config import DataConfig
from layerlens.data.columns import QUESTION_NAMES, choose_columns, find_label_column
from layerlens.data.labels import looks_continuous
from layerlens.data.table import Form, Table
from layerlens.words import TaskKind


def guess_task(table: Table, config: DataConfig, checkpoint_config: dict[str, Any]) -> TaskKind:
    """Guess the task from the form of the source, its columns and the checkpoint's architecture.

    Plain text is for language modelling, questions with contexts for question answering, images for their classes. A table
    without a label column is language modelling for a causal language model; otherwise numbers on a scale mean regression,
    two text columns pair classification and one classification.

    Raises:
        DataError: a table whose label or text columns cannot be told.
    """
    if config.task is not None:
        return config.task
    by_form = {
        Form.TEXT: TaskKind.CAUSAL_LM,
        Form.SQUAD: TaskKind.QUESTION_ANSWERING,
        Form.IMAGES: TaskKind.IMAGE_CLASSIFICATION,
    }
    if table.form in by_form:
        return by_form[table.form]
    if all(name in table.columns for name in QUESTION_NAMES):
        return TaskKind.QUESTION_ANSWERING
    if find_label_column(table, config) is None and is_causal_lm(checkpoint_config):
        return TaskKind.CAUSAL_LM
    columns = choose_columns(table, config, None, needs_label=True, num_texts=None)
    if columns.label is not None and columns.label not in table.class_names and looks_continuous(table.columns[columns.label]):
        return TaskKind.REGRESSION
    return TaskKind.PAIR_CLASSIFICATION if len(columns.text) == 2 else TaskKind.CLASSIFICATION


def is_causal_lm(checkpoint_config: dict[str, Any]) -> bool:
    """Whether the checkpoint holds a causal language model."""
    architectures = checkpoint_config.get("architectures") or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
