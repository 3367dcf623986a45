"""Batches are fixed by a seed: full, shuffled, alike in length, and the same for every run that shares the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from layerlens.adapting.order import num_tuning_steps, training_batches


def lengths(number: int) -> int:
    return (7 * number) % 50


def test_every_batch_is_full_and_every_epoch_holds_every_sample_once() -> None:
    batches = training_batches(96, lengths, batch_size=8, num_steps=24, seed=0)
    assert all(len(batch) == 8 for batch in batches)
    assert set(Counter(number for batch in batches for number in batch).values()) == {2}


def test_equal_seeds_give_equal_batches_and_other_seeds_do_not() -> None:
    runs = [training_batches(100, lengths, batch_size=8, num_steps=30, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_batches_hold_samples_of_like_length_in_no_order_of_length() -> None:
    batches = training_batches(1000, lengths, batch_size=10, num_steps=100, seed=0)
    spread = np.mean([np.ptp([lengths(number) for number in batch]) for batch in batches])
    assert spread < 10 < np.ptp([lengths(number) for number in range(1000)])
    means = [np.mean([lengths(number) for number in batch]) for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_a_batch_is_never_larger_than_the_data() -> None:
    batches = training_batches(3, lengths, batch_size=16, num_steps=20, seed=0)
    assert [len(batch) for batch in batches] == [3] * 20


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs", "max_steps", "steps"),
    [(100, 16, 3.0, None, 19), (100, 16, 0.5, None, 4), (5, 16, 2.0, None, 2), (100, 16, 3.0, 7, 7), (1, 1, 0.1, None, 1)],
)
def test_steps_of_a_tuning_run(samples: int, batch_size: int, epochs: float, max_steps: int | None, steps: int) -> None:
    assert num_tuning_steps(samples, batch_size=batch_size, epochs=epochs, max_steps=max_steps) == steps
