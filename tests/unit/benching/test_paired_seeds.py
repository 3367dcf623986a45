"""Means, intervals and paired tests, against scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from layerlens.artifacts.bench import Outcome
from layerlens.benching.paired_seeds import compare_paired, mean_interval, paired_t, sign_flip


def scores(seed: int, count: int, shift: float = 0.0) -> dict[int, float]:
    values = 0.8 + shift + 0.01 * np.random.default_rng(seed).standard_normal(count)
    return dict(enumerate(values.tolist()))


@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_interval_of_a_mean_is_students(count: int) -> None:
    values = list(scores(0, count).values())
    expected = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_the_paired_test_is_scipys(count: int, shift: float) -> None:
    ours, theirs = scores(1, count, shift), scores(2, count)
    found = compare_paired(ours, theirs, "uniform")
    expected = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert found is not None
    assert found.t_p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.difference == pytest.approx(np.mean(list(ours.values())) - np.mean(list(theirs.values())))


def test_the_sign_flip_test_is_scipys_over_all_signs() -> None:
    differences = np.array([0.3, -0.1, 0.25, 0.4, 0.05, -0.02])
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(differences.tolist()) == pytest.approx(expected.pvalue)


def test_drawn_signs_come_close_to_all_of_them() -> None:
    differences = (0.1 + 0.3 * np.random.default_rng(3).standard_normal(17)).tolist()
    signs = np.array(list(product((-1.0, 1.0), repeat=17)))
    exact = float(np.mean(np.abs(signs @ differences) >= abs(sum(differences)) - 1e-12))
    assert sign_flip(differences) == pytest.approx(exact, abs=0.01)


def test_no_sign_flip_of_so_few_seeds_falls_below_its_least_value() -> None:
    found = compare_paired(scores(1, 5, 1.0), scores(2, 5), "uniform")
    assert found is not None
    assert found.permutation_p_value == found.least_p_value == 2 / 2**5


@pytest.mark.parametrize(("shift", "outcome"), [(0.5, Outcome.BETTER), (-0.5, Outcome.WORSE), (0.0, Outcome.NO_DIFFERENCE)])
def test_a_claim_is_made_only_where_the_interval_excludes_zero(shift: float, outcome: Outcome) -> None:
    found = compare_paired(scores(1, 5, shift), scores(2, 5), "uniform")
    assert found is not None
    assert found.outcome is outcome


def test_a_lower_loss_is_a_positive_difference() -> None:
    found = compare_paired(scores(1, 5, -0.5), scores(2, 5), "uniform", is_lower_better=True)
    assert found is not None
    assert found.difference == pytest.approx(0.5, abs=0.02)
    assert found.outcome is Outcome.BETTER


def test_only_common_seeds_are_paired() -> None:
    found = compare_paired({0: 1.0, 1: 2.0, 7: 100.0}, {1: 1.0, 0: 0.5, 9: -100.0}, "full")
    assert found is not None
    assert found.seeds == [0, 1]
    assert found.difference == pytest.approx(0.75)
    assert compare_paired({0: 1.0}, {1: 1.0}, "full") is None


def test_one_seed_has_neither_interval_nor_test() -> None:
    found = compare_paired({3: 0.9}, {3: 0.1}, "full")
    assert found is not None
    assert (found.interval, found.t_p_value, found.permutation_p_value) == (None, None, None)
    assert found.outcome is Outcome.UNKNOWN
    assert mean_interval([0.9]) is None


def test_equal_scores_show_no_difference_and_equal_differences_have_no_t_test() -> None:
    same = compare_paired({0: 0.1 + 0.2, 1: 0.5}, {0: 0.3, 1: 0.5}, "uniform")
    assert same is not None
    assert (same.difference, same.t_p_value, same.permutation_p_value) == (0.0, 1.0, 1.0)
    assert same.outcome is Outcome.NO_DIFFERENCE
    assert paired_t([0.25, 0.25]) is None


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_difference_without_any_spread_is_no_claim(scale: float) -> None:
    ours, theirs = {0: 0.75, 1: 0.8, 2: 0.1 + 0.2}, {0: 0.75 - scale / 4, 1: 0.8 - scale / 4, 2: 0.3 - scale / 4}
    found = compare_paired(ours, theirs, "uniform")
    assert found is not None
    assert found.difference == pytest.approx(scale / 4)
    assert (found.interval, found.t_p_value, found.outcome) == (None, None, Outcome.UNKNOWN)
    assert found.permutation_p_value == found.least_p_value == 0.25
    assert found.verdict == "seeds without any spread cannot tell"
