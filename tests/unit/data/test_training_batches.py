"""Batches are fixed by a seed: full, shuffled, alike in length, and the same for every run that shares the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from layerlens.data.training_batches import TOKENS, training_batches, typical_length


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


@pytest.mark.parametrize("max_length", [None, 40, 96])
def test_the_typical_length_is_what_batches_are_padded_to_in_the_mean(max_length: int | None) -> None:
    generator = np.random.default_rng(1)
    samples = np.minimum(generator.poisson(generator.uniform(5, 60, size=5000)), max_length or 96)
    batches = training_batches(5000, lambda number: int(samples[number]), batch_size=16, num_steps=300, seed=3)
    padded = []
    for batch in batches:
        longest = max(samples[number] for number in batch)
        padded.append(longest if max_length is None else min(max_length, TOKENS * np.ceil(longest / TOKENS)))
    found = typical_length(samples[:512].tolist(), num_samples=5000, batch_size=16, max_length=max_length)
    assert found == pytest.approx(np.mean(padded), abs=1.0)
    assert found > samples.mean() + 1


def test_batches_of_few_samples_are_typically_as_long_as_they_are() -> None:
    samples = np.random.default_rng(0).integers(5, 300, size=40)
    batches = training_batches(40, lambda number: int(samples[number]), batch_size=32, num_steps=500, seed=5)
    padded = np.mean([TOKENS * np.ceil(max(samples[number] for number in batch) / TOKENS) for batch in batches])
    found = typical_length(samples.tolist(), num_samples=40, batch_size=32, max_length=512)
    assert found == pytest.approx(padded, abs=2.0)


def test_samples_of_one_length_are_typically_that_long() -> None:
    assert typical_length([197] * 7, num_samples=7, batch_size=4, max_length=None) == 197
    assert typical_length([64] * 7, num_samples=900, batch_size=4, max_length=64) == 64
