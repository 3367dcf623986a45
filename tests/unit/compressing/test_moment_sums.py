"""Grams to fit by and thin roots to price by, against sums written out."""

from __future__ import annotations

import pytest
import torch

from layerlens.compressing.moment_sums import SKETCH_ROWS, HeldRoot, MomentSum, moment_bytes


def test_moments_are_those_of_the_fitted_rows_at_the_size_of_all() -> None:
    torch.manual_seed(0)
    fitted, held = torch.randn(60, 7), 2.0 * torch.randn(20, 7)
    for is_full in (True, False):
        sums = MomentSum(7, is_full=is_full)
        sums.add(fitted[:25], held[:11], (1,))
        sums.add(fitted[25:], held[11:], (2,))
        assert sums.num_rows == 80
        total = float(fitted.square().sum() + held.square().sum())
        assert sums.square_sum == pytest.approx(total, rel=1e-6)
        root = sums.root(80)
        found = sums.moments(80)
        expected = fitted.T @ fitted * (total / float(fitted.square().sum()) / 80)
        torch.testing.assert_close(found, expected if is_full else expected.diagonal(), rtol=1e-5, atol=1e-5)
        # With few features the root is exact.
        held_gram = held.T @ held * (total / float(held.square().sum()) / 80)
        torch.testing.assert_close(root.T @ root, held_gram, rtol=1e-5, atol=1e-5)


def test_a_sketch_has_the_moments_of_all_rows_in_expectation() -> None:
    torch.manual_seed(0)
    features = SKETCH_ROWS + 88
    rows = torch.randn(30, features) * torch.linspace(0.1, 2.0, features)
    direction = torch.nn.functional.normalize(torch.randn(features), dim=0)
    found = []
    for trial in range(40):
        held = HeldRoot(features)
        held.add(rows[:13], (trial, 0))
        held.add(rows[13:], (trial, 1))
        root = held.root(float(rows.square().sum()))
        assert root.shape == (SKETCH_ROWS, features)
        assert float(root.square().sum()) == pytest.approx(float(rows.square().sum()), rel=1e-5)
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


def test_nothing_but_zeros_gives_zeros() -> None:
    sums = MomentSum(5, is_full=True)
    sums.add(torch.zeros(6, 5), torch.zeros(2, 5), (0,))
    assert not bool(sums.root(8).any())
    assert not bool(sums.moments(8).any())


def test_a_wide_gram_is_what_takes_the_bytes() -> None:
    assert moment_bytes(4096, is_full=True) - moment_bytes(4096, is_full=False) == pytest.approx(4 * 4096**2 * 5 / 8, rel=1e-3)
