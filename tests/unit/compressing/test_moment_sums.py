"""Grams to fit by and thin roots to price by, against sums written out."""

from __future__ import annotations

import pytest
import torch

from layerlens.compressing import moment_sums
from layerlens.compressing.moment_sums import SKETCH_ROWS, FittedSum, HeldRoot, fitted_bytes, held_bytes, sized, squares


@pytest.mark.parametrize("is_full", [True, False])
def test_fitted_moments_are_the_sum_at_the_trace_that_is_asked_for(is_full: bool) -> None:
    torch.manual_seed(0)
    rows = torch.randn(60, 7)
    sums = FittedSum(7, is_full=is_full)
    for some in rows.split(25):
        sums.add(some)
    expected = rows.T @ rows * (3.0 / float(rows.square().sum()))
    torch.testing.assert_close(sums.moments(3.0), expected if is_full else expected.diagonal(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(9,), (7, 5), (7, 3, 5), (0, 5)])
@pytest.mark.parametrize("at_once", [1, 20, 1000])
def test_squares_are_those_of_all_values_however_few_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], at_once: int
) -> None:
    monkeypatch.setattr(moment_sums, "_SQUARED", at_once)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert squares(values) == pytest.approx(float(values.double().square().sum()), rel=1e-6)


@pytest.mark.parametrize("is_full", [True, False])
def test_nothing_but_zeros_gives_zeros(is_full: bool) -> None:
    for rows in (0, 6):
        sums = FittedSum(5, is_full=is_full)
        sums.add(torch.zeros(rows, 5))
        assert not bool(sums.moments(2.0).any())
    for features in (5, SKETCH_ROWS + 1):
        for rows in (0, 6):
            held = HeldRoot(features)
            held.add(torch.zeros(rows, features), (0,))
            assert held.root(2.0).tolist() == [[0.0] * features]


@pytest.mark.parametrize("is_full", [True, False])
def test_gradients_that_all_but_vanish_count_as_none_and_do_not_become_infinite(is_full: bool) -> None:
    sums = FittedSum(3, is_full=is_full)
    sums.add(torch.full((2, 3), 1e-21))
    assert not sums.moments(1.0).any()


def test_the_root_of_a_few_features_is_exact() -> None:
    torch.manual_seed(0)
    rows = torch.randn(40, 7)
    held = HeldRoot(7)
    for number, some in enumerate(rows.split(11)):
        held.add(some, (number,))
    root = held.root(float(rows.square().sum()))
    torch.testing.assert_close(root.T @ root, rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_a_sketch_has_the_moments_of_all_rows_in_expectation() -> None:
    torch.manual_seed(0)
    features = SKETCH_ROWS + 88
    rows = torch.randn(30, features) * torch.linspace(0.1, 2.0, features)
    direction = torch.nn.functional.normalize(torch.randn(features), dim=0)
    total = float(rows.square().sum())
    found = []
    for trial in range(40):
        held = HeldRoot(features)
        held.add(rows[:13], (trial, 0))
        held.add(rows[13:], (trial, 1))
        root = held.root(total)
        assert root.shape == (SKETCH_ROWS, features)
        assert float(root.square().sum()) == pytest.approx(total, rel=1e-5)
        found.append(float((root @ direction).square().sum()))
    expected = float((rows @ direction).square().sum())
    # Relative spread of one is √(2 / 512) = 6 %, of the mean of forty 1 %.
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.04)
    assert torch.tensor(found).std() / expected < 0.1


def test_the_same_seed_gives_the_same_sketch() -> None:
    rows = torch.randn(9, SKETCH_ROWS + 1)
    roots = []
    for seed in (3, 3, 4):
        held = HeldRoot(rows.shape[1])
        held.add(rows, (seed,))
        roots.append(held.root(1.0))
    assert torch.equal(roots[0], roots[1])
    assert not torch.equal(roots[0], roots[2])


def test_a_root_is_scaled_to_its_trace() -> None:
    root = torch.randn(4, 3)
    torch.testing.assert_close(sized(root, 2.0).square().sum(), torch.tensor(2.0))
    assert not bool(sized(root, 0.0).any())


def test_a_wide_gram_is_what_takes_the_bytes() -> None:
    assert fitted_bytes(4096, is_full=True) == pytest.approx(4 * 4096**2 * 5 / 8, rel=1e-3)
    assert fitted_bytes(4096, is_full=False) == 4 * 4096
    assert held_bytes(4096) == 4 * SKETCH_ROWS * 4096
