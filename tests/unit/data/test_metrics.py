from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerlens.data import metrics

LABELS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
NUMBERS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=30)


def _columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(rows)
    return table[:, 0], table[:, 1]


@given(LABELS)
def test_two_class_scores_follow_from_the_confusion_counts(rows: list[tuple[int, int]]) -> None:
    predicted, actual = _columns(rows)
    both, neither = sum(p == a == 1 for p, a in rows), sum(p == a == 0 for p, a in rows)
    only_predicted, only_actual = sum(p > a for p, a in rows), sum(a > p for p, a in rows)
    scale = math.sqrt((both + only_predicted) * (both + only_actual) * (neither + only_predicted) * (neither + only_actual))
    assert metrics.accuracy(predicted, actual) == pytest.approx((both + neither) / len(rows))
    expected_f1 = 2 * both / (2 * both + only_predicted + only_actual) if both else 0.0
    assert metrics.f1(predicted, actual) == pytest.approx(expected_f1)
    expected = (both * neither - only_predicted * only_actual) / scale if scale else 0.0
    assert metrics.matthews(predicted, actual) == pytest.approx(expected, abs=1e-12)


def test_matthews_of_three_classes_is_gorodkins() -> None:
    predicted, actual = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 1, 2, 1, 1, 2])
    # Gorodkin's form: (right · total − Σ predicted_k actual_k) / √((total² − Σ predicted_k²)(total² − Σ actual_k²)).
    assert metrics.matthews(predicted, actual) == pytest.approx((4 * 6 - 12) / math.sqrt((36 - 12) * (36 - 14)))


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    predicted, actual = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 1])
    assert metrics.macro_f1(predicted, actual) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)


@given(NUMBERS)
def test_correlations_are_scipys_where_both_sides_vary_and_zero_elsewhere(rows: list[tuple[int, int]]) -> None:
    predicted, actual = (side.astype(float) for side in _columns(rows))
    is_constant = len(set(predicted)) == 1 or len(set(actual)) == 1
    expected_pearson = 0.0 if is_constant else stats.pearsonr(predicted, actual).statistic
    expected_spearman = 0.0 if is_constant else stats.spearmanr(predicted, actual).statistic
    assert metrics.pearson(predicted, actual) == pytest.approx(expected_pearson, abs=1e-12)
    assert metrics.spearman(predicted, actual) == pytest.approx(expected_spearman, abs=1e-12)


def test_a_side_that_varies_only_by_rounding_counts_as_constant() -> None:
    assert metrics.pearson(np.full(9, 0.1) + np.arange(9) * 1e-17, np.arange(9.0)) == 0.0


def test_equal_values_share_their_mean_rank() -> None:
    assert metrics.mean_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_perplexity_is_the_exponential_and_never_overflows() -> None:
    assert metrics.perplexity(math.log(7.0)) == pytest.approx(7.0)
    assert math.isfinite(metrics.perplexity(1e9))


def test_mean_squared_error_is_a_mean() -> None:
    assert metrics.mean_squared_error(np.array([1.0, 3.0]), np.array([0.0, 1.0])) == 2.5
