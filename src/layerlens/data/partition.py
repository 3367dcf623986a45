"""Disjoint samples for calibration and training, for the race, and for the final evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.errors import DataError

TEST_SHARE = 0.2
RACE_SHARE = 0.1
MAX_RACE = 512


@dataclass(frozen=True)
class Partition:
    """Indices of samples by use; no sample has two."""

    train: tuple[int, ...]
    race: tuple[int, ...]
    test: tuple[int, ...]


def partition(num: int, splits: Sequence[str] | None, *, seed: int, has_eval_data: bool) -> Partition:
    """Share out the samples of a data set.

    Args:
        num: Number of samples.
        splits: `train`, `validation` or `test` of each sample where the source fixes it: these become train, race and
            test in the source's order. What the source lacks is drawn from its training samples.
        seed: Seed of the draw.
        has_eval_data: Whether the final evaluation has data of its own; then no test samples are drawn, and a
            test split of the source is left out rather than trained on.

    Returns:
        Train, race (10 %, at most 512) and test (20 %) indices; what is drawn comes in the order of the draw.

    Raises:
        DataError: too few samples for each use to get one, or an unknown split.
    """
    names = ["train"] * num if splits is None else list(splits)
    if unknown := sorted(set(names) - {"train", "validation", "test"}):
        raise DataError(f"unknown split {', '.join(unknown)}; the splits of a source are train, validation and test")
    train, race, test = (in_split(names, wanted) for wanted in ("train", "validation", "test"))
    needs_test = not test and not has_eval_data
    needs_race = not race
    if needs_test or needs_race or splits is None:
        train = [train[position] for position in np.random.default_rng(seed).permutation(len(train))]
    total = len(train)
    needed = 1 + needs_test + needs_race
    if total < needed:
        raise DataError(f"{total} training samples, but training, race and evaluation need at least {needed}; use more data")
    if needs_test:
        test, train = _cut(train, round(TEST_SHARE * total))
    if needs_race:
        race, train = _cut(train, min(MAX_RACE, round(RACE_SHARE * total)))
    return Partition(train=tuple(train), race=tuple(race), test=() if has_eval_data else tuple(test))


def in_split(splits: Sequence[str] | None, wanted: str) -> list[int]:
    """Samples of one of the source's own splits, in its order; none where it has no such split."""
    return [index for index, name in enumerate(splits or ()) if name == wanted]


def _cut(samples: list[int], wanted: int) -> tuple[list[int], list[int]]:
    """Take `wanted` samples off the front, at least one."""
    wanted = max(1, wanted)
    return samples[:wanted], samples[wanted:]
