"""A race knows when it is blind, on losses constructed to be one or the other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from layerlens.adapting.sight import look, spearman, split_half_agreement

SAMPLES = 200


def losses(means: list[float], *, noise: float, shared: float = 1.0, seed: int = 0, seeds: int = 2) -> np.ndarray:
    """`[candidates, seeds, samples]` with the given means: samples differ alike for all, plus noise of each own."""
    generator = np.random.default_rng(seed)
    common = generator.normal(0.0, shared, size=(1, 1, SAMPLES))
    own = generator.normal(0.0, noise, size=(len(means), seeds, SAMPLES))
    own -= own.mean(axis=2, keepdims=True)
    return np.array(means)[:, None, None] + common - common.mean() + own


def test_a_deep_fall_with_a_clear_order_sees() -> None:
    measured = losses([3.05, 3.10, 3.18, 3.30], noise=0.05)
    sight = look(np.full(SAMPLES, 4.8), [measured, measured[:2]], seed=0)
    assert not sight.is_blind
    assert sight.reason == ""
    assert sight.fall == pytest.approx((4.8 - 3.05) / 4.8)


def test_a_shallow_fall_is_blind_whatever_the_order() -> None:
    # MRPC after 40 steps: .586 to .605 from about .62.
    measured = losses([0.586, 0.592, 0.599, 0.605], noise=0.001)
    sight = look(np.full(SAMPLES, 0.62), [measured, measured[:2]], seed=0)
    assert sight.is_agreed
    assert sight.is_blind
    assert "the best loss went from 0.620 to 0.586" in sight.reason


def test_a_shallow_fall_that_dwarfs_the_differences_sees() -> None:
    measured = losses([3.100, 3.104, 3.108, 3.112], noise=0.001)
    sight = look(np.full(SAMPLES, 3.3), [measured, measured[:2]], seed=0)
    assert sight.fall < 0.10
    assert not sight.is_blind


def test_a_deep_fall_with_an_order_of_noise_is_blind() -> None:
    measured = losses([2.0, 2.0, 2.0, 2.0], noise=1.0)
    sight = look(np.full(SAMPLES, 4.0), [measured, measured[:2]], seed=0)
    assert sight.has_learned
    assert sight.is_blind
    assert "disagree on the order" in sight.reason


def test_a_loss_that_rose_is_blind() -> None:
    measured = losses([2.0, 2.5], noise=0.01)
    assert look(np.full(SAMPLES, 1.9), [measured], seed=0).is_blind


def test_a_first_round_that_made_the_loss_worse_is_blind() -> None:
    first = losses([4.1, 4.2, 4.3, 4.4], noise=0.05)
    final = losses([2.0, 2.5], noise=0.05)
    assert look(np.full(SAMPLES, 4.0), [first, final], seed=0).is_blind
    assert not look(np.full(SAMPLES, 5.2), [first, final], seed=0).is_blind


def test_a_race_that_only_just_began_to_learn_is_blind() -> None:
    # STS-B: 2 % below the start after 20 steps, 43 % after 40; the order at 40 was not that at 150.
    screening = losses([0.936, 0.940, 0.945, 0.950], noise=0.002)
    final = losses([0.54, 0.58], noise=0.002)
    sight = look(np.full(SAMPLES, 0.954), [screening, final], seed=0)
    assert sight.has_learned
    assert sight.is_agreed
    assert sight.is_blind
    assert sight.reason.startswith("learning has only just begun: the best loss went from 0.954 to 0.936 in the round before")
    # 80 steps of the same: .54 at half of the way.
    later = look(
        np.full(SAMPLES, 0.954), [losses([0.54, 0.58, 0.6, 0.62], noise=0.002), losses([0.44, 0.45], noise=0.002)], seed=0
    )
    assert not later.is_blind


def test_learning_is_under_way_by_the_round_before_the_final_not_by_the_first() -> None:
    start, first, final = np.full(SAMPLES, 4.0), losses([3.9, 3.95, 3.97, 3.99], noise=0.01), losses([2.0, 2.2], noise=0.01)
    assert look(start, [first, final], seed=0).is_blind
    assert not look(start, [first, losses([3.0, 3.1, 3.2], noise=0.01), final], seed=0).is_blind


def test_a_race_of_one_round_cannot_tell_when_learning_began() -> None:
    sight = look(np.full(SAMPLES, 4.0), [losses([2.0, 2.2], noise=0.01)], seed=0)
    assert sight.halfway_loss is None
    assert not sight.is_blind


def test_one_candidate_alone_has_no_order() -> None:
    measured = losses([1.0], noise=0.1)
    sight = look(np.full(SAMPLES, 4.0), [measured], seed=0)
    assert sight.agreement is None
    assert sight.is_blind


def test_agreement_tells_noise_from_order() -> None:
    clear = losses([1.0, 1.2, 1.4, 1.6, 1.8], noise=0.3).mean(axis=1)
    noise = losses([1.0] * 5, noise=0.3).mean(axis=1)
    assert split_half_agreement(clear, seed=0) > 0.9
    assert split_half_agreement(noise, seed=0) < 0.3


def test_spearman_is_scipys_with_ties_and_zero_for_a_constant() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, 20).astype(float), generator.normal(size=20)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0
