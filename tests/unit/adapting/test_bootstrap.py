"""The interval of a paired difference covers what it should, on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from layerlens.adapting.bootstrap import paired_interval


def test_with_many_samples_it_is_as_wide_as_the_t_interval() -> None:
    generator = np.random.default_rng(0)
    differences = np.repeat(generator.normal(0.05, 1.0, size=(1, 400)), 2, axis=0)
    found = paired_interval(differences, seed=1, num_draws=8000)
    low, high = stats.t.interval(0.95, 399, loc=differences[0].mean(), scale=stats.sem(differences[0]))
    assert found.mean == pytest.approx(differences.mean())
    assert found.high - found.low == pytest.approx(high - low, rel=0.05)
    assert found.low == pytest.approx(low, abs=0.02)


def test_it_covers_the_true_difference_about_as_often_as_the_t_interval() -> None:
    generator = np.random.default_rng(1)
    truth, covered, covered_by_t, trials = 0.3, 0, 0, 300
    for trial in range(trials):
        differences = truth + generator.normal(0.0, 1.0, size=(2, 60))
        found = paired_interval(differences, seed=trial, num_draws=600)
        covered += found.low <= truth <= found.high
        means = differences.mean(axis=0)
        low, high = stats.t.interval(0.95, 59, loc=means.mean(), scale=stats.sem(means))
        covered_by_t += low <= truth <= high
    assert covered_by_t / trials > 0.91
    assert 0.91 <= covered / trials <= 1.0


def test_a_spread_between_seeds_widens_it_beyond_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(2)
    by_seed = np.array([[-0.5], [0.5]])
    differences = by_seed + generator.normal(0.0, 0.1, size=(2, 100))
    found = paired_interval(differences, seed=0)
    # The unbiased variance of a mean of two seeds at ±0.5 is s²/2 = 0.25; the plain bootstrap would have half of it.
    assert found.low == pytest.approx(-np.sqrt(0.5), abs=0.1)
    assert found.high == pytest.approx(np.sqrt(0.5), abs=0.1)
    assert found.has_zero


def test_equal_seeds_give_equal_intervals() -> None:
    differences = np.random.default_rng(3).normal(size=(2, 30))
    assert paired_interval(differences, seed=5) == paired_interval(differences, seed=5)
    assert paired_interval(differences, seed=5) != paired_interval(differences, seed=6)


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    found = paired_interval(np.full((2, 20), 0.25), seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert not found.has_zero
