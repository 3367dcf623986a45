"""Which samples are measured, in which batches, with how many rows in the Grams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerlens.errors import DataError
from layerlens.profiling.calibration import CalibrationBatch, calibration_batches, choose_samples, samples_to_profile

_LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def _rows(batches: list[CalibrationBatch], lengths: list[int]) -> int:
    """Rows that the batches put into a Gram, as the mixer makes them."""
    total = 0
    for batch in batches:
        own = [lengths[sample] for sample in batch.samples]
        total += sum(own) if max(own) <= batch.gram_rows else batch.gram_rows * len(own)
    return total


@given(_LENGTHS, st.integers(1, 9))
def test_every_sample_stands_in_one_batch_and_the_halves_are_balanced(lengths: list[int], batch_size: int) -> None:
    batches = calibration_batches(lengths, batch_size=batch_size, gram_tokens=100, seed=0)
    assert sorted(sample for batch in batches for sample in batch.samples) == list(range(len(lengths)))
    assert all(1 <= len(batch.samples) <= batch_size for batch in batches)
    first = sum(batch.num_first for batch in batches)
    assert first - (len(lengths) - first) in (0, 1)


@given(_LENGTHS, st.integers(1, 9))
def test_batches_hold_neighbours_by_length(lengths: list[int], batch_size: int) -> None:
    batches = calibration_batches(lengths, batch_size=batch_size, gram_tokens=0, seed=0)
    ranges = [[lengths[sample] for sample in batch.samples] for batch in batches]
    assert all(max(earlier) <= min(later) for earlier, later in pairwise(ranges))


@given(_LENGTHS, st.integers(1, 9), st.integers(1, 400))
def test_the_grams_take_at_most_the_rows_they_are_given(lengths: list[int], batch_size: int, gram_tokens: int) -> None:
    batches = calibration_batches(lengths, batch_size=batch_size, gram_tokens=gram_tokens, seed=0)
    rows = _rows(batches, lengths)
    if any(len(batch.samples) > gram_tokens for batch in batches):
        # A single batch already holds more samples than rows; one batch is taken all the same.
        assert rows == len(batches[0].samples) or rows <= gram_tokens
    elif len(lengths) <= gram_tokens:
        assert rows <= gram_tokens
        assert all(batch.gram_rows for batch in batches)
        assert (
            rows == sum(lengths)
            or _rows([CalibrationBatch(b.samples, b.num_first, b.gram_rows + 1, b.seed) for b in batches], lengths) > gram_tokens
        )


def test_all_tokens_enter_where_there_are_few() -> None:
    lengths = [3, 9, 4, 7]
    batches = calibration_batches(lengths, batch_size=2, gram_tokens=23, seed=0)
    assert _rows(batches, lengths) == 23
    assert _rows(calibration_batches(lengths, batch_size=2, gram_tokens=22, seed=0), lengths) < 23


def test_more_samples_than_rows_spread_the_rows_over_the_lengths() -> None:
    lengths = list(range(1, 101))
    batches = calibration_batches(lengths, batch_size=5, gram_tokens=25, seed=0)
    used = [position for position, batch in enumerate(batches) if batch.gram_rows]
    assert used == [0, 4, 8, 12, 16]
    assert _rows(batches, lengths) == 25


def test_batches_have_seeds_of_their_own_that_follow_the_seed() -> None:
    one, again, other = (calibration_batches([5] * 40, batch_size=4, gram_tokens=40, seed=seed) for seed in (1, 1, 2))
    assert len({batch.seed for batch in one}) == 10
    assert one == again
    assert {batch.seed for batch in one}.isdisjoint(batch.seed for batch in other)


def test_the_choice_of_samples_is_seeded_distinct_and_all_where_there_are_few() -> None:
    candidates = list(range(100, 200))
    chosen = choose_samples(candidates, 30, seed=0)
    assert chosen == choose_samples(candidates, 30, seed=0) != choose_samples(candidates, 30, seed=1)
    assert len(set(chosen)) == 30
    assert set(chosen) <= set(candidates)
    assert np.mean(chosen) == pytest.approx(150, abs=15)
    assert choose_samples(candidates, 100, seed=0) == candidates


def test_a_profile_needs_two_samples_and_says_how_many_there_are() -> None:
    assert samples_to_profile("reviews", [4, 9], 30, seed=0) == [4, 9]
    with pytest.raises(DataError, match="reviews leaves 1 training samples to profile on, 2 or more are needed"):
        samples_to_profile("reviews", [4], 30, seed=0)
