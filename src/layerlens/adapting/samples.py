"""Samples of a data set by number: which were chosen, in what batches they are trained on, and what they are known by."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.artifacts.store import sha256_of_json
from layerlens.data.batches import example_length
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.training_batches import training_batches
from layerlens.words import TaskKind

#: Samples that a run is known by as they are encoded; encoding all of a large set would take longer than some runs.
ENCODED_SAMPLES = 256
#: Key of what all of them are encoded from.
SOURCE = "source"


@dataclass(frozen=True)
class Samples:
    """Some samples of a data set, in an order that a seed fixed."""

    data: LoadedData
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self) -> list[Example]:
        """All of them, encoded."""
        return self.data.take(self.indices)

    @property
    def identity(self) -> dict[str, Any]:
        """Which samples these are: what every one is encoded from, and the first ones encoded."""
        return {
            "data": self.data.id,
            "indices": sha256_of_json({"indices": self.indices}),
            "first": self.data.hash(self.indices[:ENCODED_SAMPLES]),
            SOURCE: self.source(self.data.task.info.max_length),
        }

    def source(self, max_length: int | None) -> str:
        """What every sample is known by: what it is encoded from, cut at `max_length` tokens."""
        return sha256_of_json({"samples": self.data.source_hash(self.indices), "max_length": max_length})

    def batches(self, *, batch_size: int, num_steps: int, seed: int) -> list[list[int]]:
        """Batches of a run, as numbers in the data set; images are all of one length and stay unread."""
        if self.data.task.info.kind is TaskKind.IMAGE_CLASSIFICATION:
            lengths = [0] * len(self)
        elif num_steps * batch_size >= len(self):
            lengths = [example_length(example) for example in self.take()]
        else:
            lengths = []
        drawn = training_batches(
            len(self),
            lambda number: lengths[number] if lengths else example_length(self.data.examples[self.indices[number]]),
            batch_size=batch_size,
            num_steps=num_steps,
            seed=seed,
        )
        return [[self.indices[number] for number in batch] for batch in drawn]


def choose(indices: Sequence[int], limit: int | None, *, seed: int) -> list[int]:
    """At most `limit` of the indices, a seeded choice in a seeded order; all of them, shuffled, without a limit."""
    chosen = list(indices)
    random.Random(seed).shuffle(chosen)
    return chosen if limit is None else chosen[:limit]
