"""Gain curves against explicit square roots and full SVDs, pure noise, planted signals and measured losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.curves.concave_envelope import concave_envelope
from layerlens.curves.cross_fitted_gain import cross_fitted_gain
from layerlens.linalg.cholesky_whitening import damped_whitener
from layerlens.linalg.gram import GramSum

DAMPING = 0.03


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _inverse_root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag((values + DAMPING * values.mean()).rsqrt()) @ vectors.t()


def _whitened(gradient: Tensor, inputs: Tensor, outputs: Tensor, num_samples: int, damping: float = DAMPING) -> Tensor:
    """Whitened by the mean over input rows, and by the sum over output rows and the mean over samples."""
    whitened = gradient.clone()
    for rows, count, matrix in ((inputs, len(inputs), whitened), (outputs, num_samples, whitened.t())):
        gram = GramSum(rows.shape[1], len(rows))
        gram.add(rows.to(gradient.dtype))
        damped_whitener(gram, count, damping).apply_(matrix)
    return whitened


def _oracle(first: Tensor, second: Tensor, input_gram: Tensor, output_gram: Tensor) -> np.ndarray:
    """½ Σ σ_i u_iᵀ M₂ v_i by symmetric roots and full SVDs, both swaps averaged, before cut and envelope."""
    left, right = _inverse_root(output_gram), _inverse_root(input_gram)
    halves = [left @ half @ right for half in (first, second)]
    curves = []
    for fitted, scored in (halves, halves[::-1]):
        u, sigma, vt = torch.linalg.svd(fitted, full_matrices=False)
        curves.append(0.5 * torch.cumsum(sigma * torch.diagonal(u.t() @ scored @ vt.t()), dim=0))
    return ((curves[0] + curves[1]) / 2).numpy()


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_the_curve_equals_the_explicit_whitening_and_svd(outputs: int, inputs: int, dtype: torch.dtype, tolerance: float) -> None:
    x, g = _randn(0, 40, inputs), _randn(1, 40, outputs)
    input_gram, output_gram = x.t() @ x / 40, g.t() @ g / 10
    signal = _randn(2, outputs, inputs)
    first, second = signal + 0.3 * _randn(3, outputs, inputs), signal + 0.3 * _randn(4, outputs, inputs)
    whitened = [_whitened(half.to(dtype), x, g, 10) for half in (first, second)]
    expected = concave_envelope(_oracle(first, second, input_gram, output_gram)[:4])
    np.testing.assert_allclose(cross_fitted_gain(*whitened, 4), expected, rtol=tolerance)


def test_full_rank_gains_half_the_inner_product_of_the_halves() -> None:
    first = _randn(0, 6, 8)
    second = first + 0.1 * _randn(1, 6, 8)
    assert cross_fitted_gain(first, second, 6)[-1] == pytest.approx(0.5 * (first * second).sum().item())


def test_identical_halves_give_half_the_squared_singular_values() -> None:
    whitened = _randn(0, 5, 7)
    expected = 0.5 * torch.linalg.svdvals(whitened).square().cumsum(0).numpy()
    np.testing.assert_allclose(cross_fitted_gain(whitened, whitened, 5), expected)


def test_noise_scores_next_to_nothing_where_fitting_it_would_score_much() -> None:
    gains, fitted = [], []
    for seed in range(20):
        first, second = _randn(2 * seed, 40, 60), _randn(2 * seed + 1, 40, 60)
        gains.append(cross_fitted_gain(first, second, 10)[-1])
        fitted.append(cross_fitted_gain(first, first, 10)[-1])
    assert np.mean(gains) < 0.03 * np.mean(fitted)


def test_a_planted_signal_is_found_at_its_own_rank() -> None:
    signal = 30.0 * _randn(0, 30, 3) @ _randn(1, 3, 50) / 50**0.5
    halves = [signal + _randn(seed, 30, 50) for seed in (2, 3)]
    curve = cross_fitted_gain(*halves, 12)
    assert curve[2] > 0.97 * curve[-1]
    assert curve[2] == pytest.approx(0.5 * signal.square().sum().item(), rel=0.05)
    assert curve[1] < 0.95 * curve[2]


def test_opposed_halves_are_worth_nothing() -> None:
    first = _randn(0, 6, 8)
    assert cross_fitted_gain(first, -first, 6).tolist() == [0.0] * 6


def test_the_curve_is_flat_beyond_the_smaller_side() -> None:
    whitened = _randn(0, 3, 8)
    curve = cross_fitted_gain(whitened, whitened, 6)
    assert len(curve) == 6
    assert curve[3:].tolist() == [curve[2]] * 3


def test_a_mean_of_several_log_likelihoods_gains_that_much_less() -> None:
    whitened = _randn(0, 4, 8)
    one = cross_fitted_gain(whitened, whitened, 4)
    np.testing.assert_allclose(cross_fitted_gain(whitened, whitened, 4, num_terms=5.0), one / 5.0)


def test_the_gain_is_in_the_units_of_a_loss_that_can_be_minimised_exactly() -> None:
    """Regression y = Wx with unit noise: the Fisher is the curvature, so rank-r gains are real drops of ½ mean squared error."""
    inputs, outputs, samples = 6, 4, 4000
    mixing = _randn(0, inputs, inputs)
    x = _randn(1, samples, inputs) @ mixing
    target = 0.5 * _randn(2, outputs, inputs)
    residual = -(x @ target.t()) - _randn(3, samples, outputs)
    gradient = residual.t() @ x / samples
    whitened = _whitened(gradient, x, torch.eye(outputs, dtype=torch.float64), 1, damping=1e-9)
    curve = cross_fitted_gain(whitened, whitened, outputs)
    exact = torch.linalg.lstsq(x, -residual).solution.t()
    drop = 0.5 * (residual.square().sum() - (residual + x @ exact.t()).square().sum()).item() / samples
    assert curve[-1] == pytest.approx(drop, rel=1e-6)
