from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from layerlens.reporting.compression.rank_correlation import spearman


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_correlation_is_scipy_s_with_ties_and_without(decimals: int) -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(size=40).round(decimals).tolist()
    second = [round(value + noise, decimals) for value, noise in zip(first, rng.normal(size=40), strict=True)]
    assert spearman(first, second) == pytest.approx(float(spearmanr(first, second).statistic))


def test_constants_and_two_points_have_none() -> None:
    assert spearman([1.0, 2.0], [1.0, 2.0]) is None
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert spearman([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]) is None
