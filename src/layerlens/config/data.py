"""How a data set is read; the base of every config that reads one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainSerializer

from layerlens.config.spellings import Column, Columns, Seed
from layerlens.words import Frozen, TaskKind

#: Tokens per sample at most, where neither the user nor a plan says.
DEFAULT_MAX_LENGTH = 128


def _recorded(length: int | None) -> int:
    return DEFAULT_MAX_LENGTH if length is None else length


#: A length that was not given is the default in records, as in those of earlier releases, whose folders so remain readable.
MaxLength = Annotated[int | None, PlainSerializer(_recorded)]


class DataConfig(Frozen):
    """How a data set is read and split."""

    task: TaskKind | None = Field(default=None, description="what to learn; guessed from the columns and the model if not given")
    text_columns: Columns | None = Field(default=None, description="input columns by name, or by number from 0 without a header")
    label_column: Column | None = Field(default=None, description="label column by name, or by number from 0 without a header")
    split: str | None = Field(default=None, description="split of a hub data set to read; train if not given")
    max_length: MaxLength = Field(
        default=None,
        gt=0,
        description="tokens per sample at most; longer ones are cut, longer text is windowed; a plan's, else "
        f"{DEFAULT_MAX_LENGTH}, if not given",
    )
    seed: Seed = Field(default=0, description="seed of every random choice")
