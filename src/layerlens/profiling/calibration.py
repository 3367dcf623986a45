"""Which samples are measured, and in which batches.

Batches hold samples of similar length, so that little padding is computed. Each batch lists its samples of the first
half before those of the second, so that each half is a contiguous slice; within a batch the halves alternate by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.errors import DataError


@dataclass(frozen=True)
class CalibrationBatch:
    """Samples of one forward pass.

    Attributes:
        samples: By their position in the calibration set, those of the first half first.
        num_first: How many belong to the first half.
        gram_rows: Rows of each sample in the Grams; 0 where the batch does not enter them.
        seed: Of what is random in the batch.
        num_tokens: Tokens of each sample, padding included; 0 if unknown.
    """

    samples: tuple[int, ...]
    num_first: int
    gram_rows: int
    seed: int
    num_tokens: int = 0


def choose_samples(candidates: Sequence[int], num_samples: int, seed: int) -> list[int]:
    """A seeded choice of `num_samples` of the candidates (all if there are fewer), in their own order."""
    if len(candidates) <= num_samples:
        return list(candidates)
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:num_samples]
    return [candidates[position] for position in sorted(chosen.tolist())]


def samples_to_profile(data_id: str, candidates: Sequence[int], num_samples: int, seed: int) -> list[int]:
    """The choice of `choose_samples` from the training samples of a data set, for its two halves.

    Raises:
        DataError: Fewer than two samples.
    """
    chosen = choose_samples(candidates, num_samples, seed)
    if len(chosen) < 2:
        raise DataError(f"{data_id} leaves {len(chosen)} training samples to profile on, 2 or more are needed; use more data")
    return chosen


def calibration_batches(lengths: Sequence[int], *, batch_size: int, gram_tokens: int, seed: int) -> list[CalibrationBatch]:
    """Group the samples into batches of similar length.

    Args:
        lengths: Tokens of each sample, without padding.
        batch_size: Samples of a batch at most.
        gram_tokens: Rows of the Grams at most; 0 for no Grams. They are spread evenly over the samples; with more samples
            than rows, evenly over the batches.
        seed: Seed of what is random in a batch.
    """
    ordered = sorted(range(len(lengths)), key=lambda sample: (lengths[sample], sample))
    groups = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    rows = _gram_rows([[lengths[sample] for sample in group] for group in groups], gram_tokens)
    batches: list[CalibrationBatch] = []
    balance = 0
    for position, members in enumerate(groups):
        # The half that is behind takes the odd sample.
        offset = 0 if balance <= 0 else 1
        first, second = members[offset::2], members[1 - offset :: 2]
        balance += len(first) - len(second)
        # Spawned from seed and position, so that neighbours differ in every batch.
        batch_seed = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
        longest = max(lengths[sample] for sample in members)
        batches.append(CalibrationBatch((*first, *second), len(first), rows[position], batch_seed, longest))
    return batches


def _gram_rows(groups: Sequence[Sequence[int]], gram_tokens: int) -> list[int]:
    """Rows of each sample in each batch: as many as keep the total within `gram_tokens`, the same in all batches."""

    def total(rows: int) -> int:
        # A batch with no more tokens than rows enters as it is, without its padding.
        return sum(sum(group) if max(group) <= rows else rows * len(group) for group in groups)

    if gram_tokens <= 0 or not groups:
        return [0] * len(groups)
    fewest, most = 0, max(max(group) for group in groups)
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fewest, most = (middle, most) if total(middle) <= gram_tokens else (fewest, middle - 1)
    if fewest:
        return [fewest] * len(groups)
    step = -(-sum(len(group) for group in groups) // gram_tokens)
    return [1 if position % step == 0 else 0 for position in range(len(groups))]
