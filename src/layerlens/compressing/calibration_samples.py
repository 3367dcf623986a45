"""The samples of a calibration pass: in batches of similar length, a quarter of them held out.

Codes and factors are fitted to the inputs of three quarters of the samples and priced with those of the last one, because a
fit looks better on its own samples than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerlens.data.dataset import LoadedData
from layerlens.data.example import Batch, Example
from layerlens.data.padding import IGNORED_LABEL
from layerlens.errors import DataError
from layerlens.models.streamed.load import StreamedModel
from layerlens.streaming.samples import Part, Samples
from layerlens.words import TaskKind

#: Every fourth sample, in order of length, is held out.
_HELD_EVERY = 4


@dataclass(frozen=True)
class CalibrationBatch:
    """Samples that run together.

    Attributes:
        samples: By their position in the calibration set.
        is_held: Which of them are held out.
        seed: Of the labels that are drawn for it, and of the signs it is sketched with.
    """

    samples: tuple[int, ...]
    is_held: tuple[bool, ...]
    seed: int


class CalibrationSamples:
    """Samples of one pass.

    Args:
        model: The streamed model.
        data: Encoded samples and their task.
        chosen: Positions in the data set.
        batch_size: Samples of a batch at most.
        seed: Seed of what is random.

    Raises:
        DataError: fewer than two samples.
    """

    def __init__(self, model: StreamedModel, data: LoadedData, chosen: Sequence[int], *, batch_size: int, seed: int) -> None:
        if len(chosen) < 2:
            raise DataError(f"{data.id} leaves {len(chosen)} samples to calibrate on, 2 or more are needed; use more data")
        self.task, self.positions = data.task, list(chosen)
        self.examples = data.take(self.positions)
        self._skeleton = model.skeleton
        self.lengths = self._lengths(self.examples)
        self.batches = calibration_batches(self.lengths, batch_size=batch_size, seed=seed)

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples, without padding."""
        return sum(self.lengths)

    def in_parts(self, tokens_at_once: int) -> Samples:
        """The batches, cut into parts of so many padded tokens."""
        groups = [batch.samples for batch in self.batches]
        return Samples.of_examples(self._skeleton, self.task, self.examples, groups, tokens_at_once)

    def _lengths(self, examples: Sequence[Example]) -> list[int]:
        if all("input_ids" in example for example in examples):
            return [len(example["input_ids"]) for example in examples]
        one = Samples.of_examples(self._skeleton, self.task, examples, [[0]], 1)
        return [one.shapes[0][1]] * len(examples)


def calibration_batches(lengths: Sequence[int], *, batch_size: int, seed: int) -> list[CalibrationBatch]:
    """Group samples of similar length, and hold out every fourth of each length; the last one where there are fewer.

    Args:
        lengths: Tokens of each sample, without padding.
        batch_size: Samples of a batch at most.
        seed: Each batch's seed comes from it and the batch's position.
    """
    ordered = sorted(range(len(lengths)), key=lambda sample: (lengths[sample], sample))
    held = {ordered[place] for place in range(min(_HELD_EVERY, len(ordered)) - 1, len(ordered), _HELD_EVERY)}
    batches = []
    for position, start in enumerate(range(0, len(ordered), batch_size)):
        members = tuple(ordered[start : start + batch_size])
        own_seed = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
        batches.append(CalibrationBatch(members, tuple(sample in held for sample in members), own_seed))
    return batches


def num_predictions(kind: TaskKind, batch: Batch) -> Float[Tensor, " samples"]:
    """Distributions that each sample's loss is the mean over: predicted tokens, start and end of an answer, else one."""
    if kind is TaskKind.CAUSAL_LM:
        # The first token is predicted by nothing.
        return (batch["labels"][:, 1:] != IGNORED_LABEL).sum(dim=1).float()
    num_samples = len(next(iter(batch.values())))
    return torch.full((num_samples,), 2.0 if kind is TaskKind.QUESTION_ANSWERING else 1.0)


@dataclass(frozen=True)
class Tokens:
    """Which tokens of a part count, and for what.

    Attributes:
        is_real: Tokens that are no padding; none where all count.
        is_held: Samples that are held out.
        seed: Of the signs that this part is sketched with.
    """

    is_real: Bool[Tensor, "samples tokens"] | None
    is_held: Bool[Tensor, " samples"]
    seed: tuple[int, int]

    @classmethod
    def of(cls, part: Part, batch: CalibrationBatch) -> Tokens:
        """Those of a part of a batch."""
        mask = None if part.batch_mask is None else part.batch_mask[part.samples]
        held = torch.tensor(batch.is_held[part.samples])
        return cls(mask, held, (batch.seed, part.samples.start))

    def split(
        self, values: Float[Tensor, "samples tokens features"]
    ) -> tuple[Float[Tensor, "fitted features"], Float[Tensor, "held features"]]:
        """Rows of the real tokens of the samples that are fitted to, and of those that are held out."""
        mask = self.mask_of(values)
        return tuple(  # type: ignore[return-value]
            values[wanted].flatten(0, 1) if mask is None else values[wanted][mask[wanted]]
            for wanted in (~self.is_held, self.is_held)
        )

    def mask_of(self, values: Float[Tensor, "samples tokens features"]) -> Bool[Tensor, "samples tokens"] | None:
        """The mask, where the values are those of every token: after pooling there is no padding."""
        return self.is_real if self.is_real is not None and self.is_real.shape == values.shape[:2] else None
