"""How a data set is read; the base of every config that reads one."""

from __future__ import annotations

from pydantic import Field

from layerlens.config.spellings import Column, Names
from layerlens.words import Frozen, TaskKind


class DataConfig(Frozen):
    """How a data set is read and split."""

    task: TaskKind | None = Field(default=None, description="what to learn; guessed from the columns and the model if not given")
    text_columns: Names | None = Field(default=None, description="input columns by name, or by number from 0 without a header")
    label_column: Column | None = Field(default=None, description="label column by name, or by number from 0 without a header")
    split: str | None = Field(default=None, description="split of a hub data set to read; train if not given")
    max_length: int = Field(
        default=128, gt=0, description="tokens per sample at most; longer ones are cut, longer text is windowed"
    )
    seed: int = Field(default=0, ge=0, description="seed of every random choice")
