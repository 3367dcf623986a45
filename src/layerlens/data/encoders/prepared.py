"""What every shape of input shares: the prepared source, the rows that are usable, and how long a sample may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.config.data import DEFAULT_MAX_LENGTH
from layerlens.data.lazy import Encoder
from layerlens.data.table import MAX_MALFORMED_SHARE, Form, Table
from layerlens.errors import DataError
from layerlens.words import TaskKind

LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length")
OFFSET_FAMILIES = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Families that count positions from one past the padding token, so that many fewer tokens fit."""
NO_LIMIT = 1_000_000
"""Tokenizers without a limit report an absurd one."""


@dataclass(frozen=True)
class Prepared:
    """A source that fits the task, not yet encoded."""

    info: TaskInfo
    encoder: Encoder
    splits: list[str] | None
    columns: dict[str, str]
    notes: tuple[str, ...]


def check_form(kind: TaskKind, table: Table) -> None:
    """Check that the source holds what the task is about, before any model file is read.

    Raises:
        DataError: images for a task on text, text for a task on images, or running text for a task with labels.
    """
    if (kind is TaskKind.IMAGE_CLASSIFICATION) != (table.form is Form.IMAGES):
        held = "no images" if kind is TaskKind.IMAGE_CLASSIFICATION else "images"
        raise DataError(f"{table.where} holds {held}, but the task is {kind}; give other data or another --task")
    if table.form is Form.TEXT and kind not in (TaskKind.CAUSAL_LM, TaskKind.EMBEDDING):
        raise DataError(f"{table.where} holds running text, not a table with labels; {kind} needs text and label columns")


def usable_rows(table: Table, is_usable: Callable[[int], bool], what: str) -> tuple[list[int], tuple[str, ...]]:
    """Rows that hold what the task needs, and a note about the others.

    Raises:
        DataError: more than 1 % of the rows are unusable, or all are.
    """
    rows = [row for row in range(table.num_rows) if is_usable(row)]
    num_bad = table.num_rows - len(rows)
    if not num_bad:
        return rows, ()
    usable = set(rows)
    first = next(row for row in range(table.num_rows) if row not in usable)
    fault = f"{table.where}: {num_bad} of {table.num_rows} rows have {what} (first: {table.row_name(first)})"
    if num_bad > MAX_MALFORMED_SHARE * table.num_rows:
        raise DataError(f"{fault}; check the columns, or remove these rows")
    return rows, (f"{fault}; they are left out",)


def splits_of(table: Table, rows: Sequence[int]) -> list[str] | None:
    """The source's own split of each row in use."""
    return None if table.splits is None else [table.splits[row] for row in rows]


def sample_length(
    config: DataConfig, known: TaskInfo | None, checkpoint_config: dict[str, Any], tokenizer: Any
) -> tuple[int, tuple[str, ...]]:
    """Tokens per sample at most, and a note where the model takes fewer than asked for.

    A length that was asked for wins; else a plan's length holds, else the default.

    Raises:
        DataError: more tokens were asked for than the model has positions.
    """
    wanted = config.max_length
    if wanted is None:
        wanted = DEFAULT_MAX_LENGTH if known is None or known.max_length is None else known.max_length
    limits = [int(checkpoint_config[key]) for key in LENGTH_KEYS if isinstance(checkpoint_config.get(key), int)]
    if checkpoint_config.get("model_type") in OFFSET_FAMILIES:
        # These position ids start at padding + 1; every published one pads with 1, MPNet and its kin included.
        padding = checkpoint_config.get("pad_token_id")
        limits = [limit - (1 if padding is None else int(padding)) - 1 for limit in limits]
    if tokenizer.model_max_length < NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    longest = min(limits, default=wanted)
    if wanted <= longest:
        return wanted, ()
    if config.max_length is not None:
        raise DataError(
            f"samples of {wanted} tokens are longer than the {longest} positions of this model; "
            f"give --max-length {longest} or less"
        )
    return longest, (f"samples are cut at {longest} tokens, the most this model takes, not at {wanted}",)


def check_room(max_length: int, num_texts: int, tokenizer: Any) -> None:
    """Check that a sample has room for a token of each text.

    Raises:
        DataError: the tokenizer's own special tokens, which are never cut, leave none.
    """
    needed = int(tokenizer.num_special_tokens_to_add(pair=num_texts == 2)) + num_texts
    if max_length < needed:
        raise DataError(f"max_length is {max_length}, too short for {num_texts} text(s); give --max-length {needed} or more")


def takes_token_types(checkpoint_config: dict[str, Any], tokenizer: Any) -> bool:
    """Whether `token_type_ids` are passed on: the tokenizer makes them and the model tells at least two kinds apart.

    Tokenizers without a class of their own make them for every model; where a model has one kind only (RoBERTa), or none
    (DistilBERT, Llama), they are out of range or unknown to it, and GPT-2 takes them for words.
    """
    if "token_type_ids" not in tokenizer.model_input_names:
        return False
    return int(checkpoint_config.get("type_vocab_size") or 0) > 1
