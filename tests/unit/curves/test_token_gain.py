"""The gain from tokens against the gain from the matrices that they make up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.curves.cross_fitted_gain import cross_fitted_gain
from layerlens.curves.token_gain import token_gain

OUTPUTS, INPUTS = 9, 12


def _tokens(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, INPUTS, generator=generator, dtype=torch.float64)
    # Gradients that depend on the inputs, so that the halves agree on something.
    g = x @ torch.randn(INPUTS, OUTPUTS, generator=generator, dtype=torch.float64)
    g += torch.randn(count, OUTPUTS, generator=generator, dtype=torch.float64)
    is_first = torch.rand(count, generator=generator) < 0.4
    return x, g, is_first


def _both(x: Tensor, g: Tensor, is_first: Tensor, max_rank: int, num_terms: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    sizes = (3, 4)
    first, second = (g[half].t() @ x[half] / size for half, size in zip((is_first, ~is_first), sizes, strict=True))
    found = token_gain(x @ x.t(), g @ g.t(), is_first, sizes, max_rank, num_terms=num_terms)
    return found, cross_fitted_gain(first, second, max_rank, num_terms=num_terms)


@pytest.mark.parametrize("count", [6, 10, 40])
def test_the_curve_is_that_of_the_matrices_for_fewer_and_for_more_tokens_than_features(count: int) -> None:
    found, expected = _both(*_tokens(count), max_rank=7, num_terms=3.0)
    assert expected[-1] > 0
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * expected[-1])


def test_equal_tokens_are_no_harm() -> None:
    x, g, is_first = _tokens(24)
    x[1::2] = x[0]
    found, expected = _both(x, g, is_first, max_rank=9)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * expected[-1])


def test_the_curve_is_flat_beyond_the_tokens_and_beyond_the_smaller_side() -> None:
    for count in (5, 30):
        x, g, is_first = _tokens(count)
        found, expected = _both(x, g, is_first, max_rank=20)
        assert len(found) == 20
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * expected[-1])


@pytest.mark.parametrize("one_sided", [True, False])
def test_a_half_without_tokens_gains_nothing(one_sided: bool) -> None:
    x, g, _ = _tokens(6)
    is_first = torch.full((6,), one_sided)
    assert token_gain(x @ x.t(), g @ g.t(), is_first, (3, 4), 5).tolist() == [0.0] * 5


def test_gradients_of_zero_gain_nothing() -> None:
    x, g, is_first = _tokens(6)
    assert token_gain(x @ x.t(), 0.0 * g @ g.t(), is_first, (3, 4), 5).tolist() == [0.0] * 5
