"""Oracles: scipy.stats, the standard library's statistics, and counting by hand."""

from __future__ import annotations

import statistics
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerlens.validation.association import average_ranks, is_constant, pairwise_consistency, pearson, spearman, variation

# Whole numbers from a short range, so that ties are common.
TIED = st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=3, max_size=20)


@given(TIED)
@settings(max_examples=40, deadline=None)
def test_spearman_equals_scipy_with_ties_and_is_none_where_scipy_has_nothing_to_say(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


@given(TIED)
@settings(max_examples=40, deadline=None)
def test_ranks_of_ties_are_averaged_as_in_scipy(pairs: list[tuple[int, int]]) -> None:
    values = [float(a) for a, _ in pairs]
    assert average_ranks(values) == pytest.approx(stats.rankdata(values).tolist())


@given(
    st.lists(
        st.tuples(st.integers(-999, 999).map(lambda n: n / 7), st.integers(-99, 99).map(lambda n: n / 1e6)),
        min_size=3,
        max_size=20,
    )
)
@settings(max_examples=40, deadline=None)
def test_pearson_equals_the_standard_library(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = pearson(first, second)
    if found is not None:
        assert found == pytest.approx(statistics.correlation(first, second), abs=1e-6)


@given(TIED)
@settings(max_examples=40, deadline=None)
def test_consistency_counts_the_pairs_that_differ_in_both_lists(pairs: list[tuple[int, int]]) -> None:
    strict = [(a, b) for a, b in combinations(pairs, 2) if a[0] != b[0] and a[1] != b[1]]
    alike = [(a, b) for a, b in strict if (a[0] > b[0]) == (a[1] > b[1])]
    found = pairwise_consistency([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert found == (pytest.approx(len(alike) / len(strict)) if strict else None)


def test_a_constant_list_is_never_correlated_with_anything() -> None:
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert spearman([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]) is None
    assert pairwise_consistency([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) is None


def test_rounding_is_not_taken_for_spread() -> None:
    assert is_constant([0.5, 0.5 + 1e-12, 0.5 - 1e-12])
    assert not is_constant([0.5, 0.5001])
    assert pearson([0.5, 0.5 + 1e-12, 0.5 - 1e-12], [1.0, 2.0, 3.0]) is None


def test_two_points_lie_on_a_line_and_prove_nothing() -> None:
    assert pearson([1.0, 2.0], [3.0, 5.0]) is None


def test_tiny_and_huge_values_do_not_underflow() -> None:
    assert pearson([1e-200, 2e-200, 4e-200], [1e200, 2e200, 4e200]) == pytest.approx(1.0)


def test_lists_of_different_length_are_refused() -> None:
    for measure in (pearson, spearman, pairwise_consistency):
        with pytest.raises(ValueError, match="3 values against 2"):
            measure([1.0, 2.0, 3.0], [1.0, 2.0])


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_variation_is_the_population_deviation_over_the_mean(values: list[float]) -> None:
    assert variation(values) == pytest.approx(statistics.pstdev(values) / statistics.fmean(values), abs=1e-9)


def test_variation_is_not_defined_without_a_mean_above_zero() -> None:
    assert variation([0.0, 0.0]) is None
    assert variation([]) is None
