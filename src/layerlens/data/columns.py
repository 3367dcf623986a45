"""Which columns hold the input and the label: as asked, as the source or the plan knows, else by well-known names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.table import Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

PAIR_NAMES = (
    *(("sentence1", "sentence2"), ("#1 string", "#2 string"), ("premise", "hypothesis"), ("question1", "question2")),
    *(("question", "sentence"), ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("s1", "s2")),
    *(("sent1", "sent2"), ("query", "passage"), ("sentence_1", "sentence_2"), ("text_1", "text_2")),
)
TEXT_NAMES = ("text", "sentence", "docstring", "content", "review", "document", "comment", "tweet", "utterance", "story")
FIRST_LABEL_NAMES = ("label", "labels", "gold_label")
LABEL_NAMES = (
    *("score", "similarity", "similarity_score", "relatedness_score", "quality", "is_duplicate", "target", "class"),
    *("category", "sentiment", "intent", "stars", "rating", "fine_label", "y"),
)
QUESTION_NAMES = ("question", "context", "answers")
HEADER_NAMES = frozenset(chain(TEXT_NAMES, FIRST_LABEL_NAMES, LABEL_NAMES, chain.from_iterable(PAIR_NAMES), QUESTION_NAMES))
"""A first row with one of these (in any case) is a header."""


@dataclass(frozen=True)
class Columns:
    """Chosen columns, by their names in the table."""

    text: tuple[str, ...]
    label: str | None


def choose_columns(
    table: Table, config: DataConfig, known: TaskInfo | None, *, needs_label: bool, num_texts: int | None
) -> Columns:
    """Choose input and label columns.

    Args:
        table: The rows.
        config: `text_columns` and `label_column` as asked for; they win.
        known: The task of a plan; its columns come second, where the table has them.
        needs_label: Whether a missing label column is a fault.
        num_texts: 1 or 2 where the task fixes it, None where either will do.

    Raises:
        DataError: a column is missing or more than one could be meant; names the columns found and the flag to give.
    """
    faults: list[str] = []
    label: str | None = None
    texts: tuple[str, ...] = ()
    try:
        label = _label_column(table, config, known)
        if label is None and needs_label:
            faults.append(f"{table.where}: no label column among {listed(table)}; give --label-column")
    except DataError as error:
        faults.append(str(error))
    try:
        texts = _text_columns(table, config, known, label, num_texts)
    except DataError as error:
        faults.append(str(error))
    if label is not None and label in texts:
        faults.append(f"{table.where}: column {label!r} is both text and label; give --text-columns and --label-column")
    if faults:
        raise DataError.of(faults)
    return Columns(texts, label)


def choose_text_columns(table: Table, config: DataConfig, known: TaskInfo | None) -> tuple[str, ...]:
    """Choose the columns of running text: any number as asked for, else the plan's, else one that can be told by name.

    Raises:
        DataError: a column is missing, or more than one could be meant.
    """
    if config.text_columns is not None:
        return tuple(_resolved(table, name, "--text-columns") for name in config.text_columns)
    if known is not None and known.text_columns and all(name in table.columns for name in known.text_columns):
        return tuple(known.text_columns)
    return _text_columns(table, config, None, None, num_texts=1)


def find_label_column(table: Table, config: DataConfig, known: TaskInfo | None = None) -> str | None:
    """Return the label column that would be chosen, or None where there is none; raises `DataError` where several could be."""
    return _label_column(table, config, known)


def listed(table: Table) -> str:
    """Columns of a table for a message; without a header, also what the first row holds."""
    names = ", ".join(table.columns)
    if table.has_header or table.num_rows == 0:
        return names
    row = ", ".join(f"{name}={str(column[0])[:24]!r}" for name, column in table.columns.items())
    return f"{names} (no header; first row: {row})"


def _label_column(table: Table, config: DataConfig, known: TaskInfo | None) -> str | None:
    if config.label_column is not None:
        return _resolved(table, config.label_column, "--label-column")
    if known is not None and known.label_column in table.columns:
        return known.label_column
    if table.label_column is not None:
        return table.label_column
    found = _named(table, FIRST_LABEL_NAMES)[:1] or _named(table, LABEL_NAMES)
    if len(found) > 1:
        raise DataError(f"{table.where}: {', '.join(found)} could each be the label; give --label-column")
    return found[0] if found else None


def _text_columns(
    table: Table, config: DataConfig, known: TaskInfo | None, label: str | None, num_texts: int | None
) -> tuple[str, ...]:
    if config.text_columns is not None:
        texts = tuple(_resolved(table, name, "--text-columns") for name in config.text_columns)
        return _counted(table, texts, num_texts)
    if known is not None and known.text_columns and all(name in table.columns for name in known.text_columns):
        return _counted(table, tuple(known.text_columns), num_texts)
    if table.text_columns:
        return _counted(table, table.text_columns, num_texts)
    pairs = [pair for names in PAIR_NAMES if len(pair := tuple(_named(table, names))) == 2] if num_texts != 1 else []
    singles = [(name,) for name in _named(table, TEXT_NAMES)] if num_texts != 2 else []
    found = pairs or singles or ([] if num_texts == 2 else [(name,) for name in _string_columns(table) if name != label])
    if len(found) == 1:
        return found[0]
    wanted = "two text columns" if num_texts == 2 else "a text column" if num_texts == 1 else "one or two text columns"
    if not found:
        raise DataError(f"{table.where}: cannot tell {wanted} among {listed(table)}; give --text-columns")
    choices = " or ".join(" + ".join(names) for names in found)
    raise DataError(f"{table.where}: the text could be {choices} (columns: {listed(table)}); give --text-columns")


def _counted(table: Table, texts: tuple[str, ...], num_texts: int | None) -> tuple[str, ...]:
    allowed = (1, 2) if num_texts is None else (num_texts,)
    if len(texts) not in allowed or len(set(texts)) != len(texts):
        needed = " or ".join(str(number) for number in allowed)
        raise DataError(
            f"{table.where}: the task takes {needed} different text column(s), got {', '.join(texts) or 'none'}; "
            "give --text-columns or another --task"
        )
    return texts


def _resolved(table: Table, wanted: str, flag: str) -> str:
    names = list(table.columns)
    if wanted in table.columns:
        return wanted
    if wanted.isdecimal() and int(wanted) < len(names):
        return names[int(wanted)]
    raise DataError(f"{table.where}: no column {wanted!r} ({flag}); it has {listed(table)}")


def _named(table: Table, wanted: Sequence[str]) -> list[str]:
    """Columns of the table that bear one of the names, in the order of the names; in any case where none is spelt so."""
    by_name = {name.casefold(): name for name in table.columns} | {name: name for name in table.columns}
    return [by_name[name] for name in wanted if name in by_name]


def _string_columns(table: Table) -> list[str]:
    """Columns that look like prose: their first values are strings with a space somewhere."""
    names = []
    for name, column in table.columns.items():
        head = [column[row] for row in range(min(20, len(column)))]
        if head and all(isinstance(value, str) for value in head) and any(" " in value for value in head):
            names.append(name)
    return names


def num_texts_of(kind: TaskKind) -> int | None:
    """How many text columns a task takes; None where one or two will do."""
    return {TaskKind.CLASSIFICATION: 1, TaskKind.PAIR_CLASSIFICATION: 2, TaskKind.REGRESSION: None}[kind]
