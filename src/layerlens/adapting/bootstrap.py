"""Interval of a paired mean difference over two crossed factors: seeds (rows) and samples (columns).

Both are resampled with replacement and independently (the pigeonhole bootstrap, Owen 2007, arXiv 0711.2344). With
few seeds the plain bootstrap halves the seeds' share of the variance (2 seeds: ½), so the rows' deviations
from the grand mean are first stretched by √(S / (S − 1)), which makes that share unbiased.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean in nats with its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        return self.low <= 0.0 <= self.high


def paired_interval(differences: NDArray[np.float64], *, seed: int, num_draws: int = NUM_DRAWS, level: float = LEVEL) -> Interval:
    """Bootstrap the mean of `differences`.

    Args:
        differences: Loss of one plan minus loss of another, nats, `[seeds, samples]`, paired in both.
        seed: Of the resampling.
        num_draws: Bootstrap resamples.
        level: Coverage of the interval.

    Returns:
        The mean and the percentile interval. A single seed says nothing of the spread between seeds; the interval
        then covers the samples alone.
    """
    num_seeds, num_samples = differences.shape
    grand = differences.mean()
    stretched = differences
    if num_seeds > 1:
        stretch = np.sqrt(num_seeds / (num_seeds - 1))
        stretched = differences + (stretch - 1.0) * (differences.mean(axis=1, keepdims=True) - grand)
    generator = np.random.default_rng(seed)
    rows = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_draws) / num_seeds
    columns = generator.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=num_draws) / num_samples
    means = np.einsum("ds,sn,dn->d", rows, stretched, columns, optimize=True)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(grand), float(low), float(high))
