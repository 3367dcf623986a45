"""Means over seeds, and two arms compared seed by seed.

Sources: Student (1908), the interval of a mean and the paired t test; Fisher (1935), the sign-flip (permutation) test, which
asks nothing of the differences but that chance could have turned each of them round. With n seeds it has 2ⁿ outcomes, so its
p-value cannot fall below 2 / 2ⁿ: 0.0625 for five seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from layerlens.artifacts.bench import Outcome, Paired

CONFIDENCE = 0.95
#: Beyond so many seeds the signs are drawn, not counted out.
_COUNTED_SEEDS = 16
_DRAWS = 65536
_SEED = 0
#: Differences of this share of the values are rounding.
_ROUNDING = 1e-12


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _student(len(values)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def compare_paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], against: str, *, is_lower_better: bool = False
) -> Paired | None:
    """Compare two arms over the seeds that both have.

    Args:
        ours: Score of the arm by seed.
        theirs: Score of the other one by seed.
        against: Name of the other one.
        is_lower_better: Turns the differences round, so that more is better.

    Returns:
        Mean difference with its interval and tests; None without a common seed. Differences that are equal but for rounding, and
        not zero, have no interval: one of no width would claim what a single seed cannot.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    sign = -1.0 if is_lower_better else 1.0
    differences = [sign * (ours[seed] - theirs[seed]) for seed in seeds]
    scale = max(abs(value) for seed in seeds for value in (ours[seed], theirs[seed]))
    differences = [0.0 if abs(value) <= _ROUNDING * scale else value for value in differences]
    has_spread = len(seeds) > 1 and stdev(differences) > _ROUNDING * scale
    is_measured = has_spread or not any(differences)
    interval = mean_interval(differences) if is_measured else None
    return Paired(
        against=against,
        seeds=seeds,
        difference=fmean(differences),
        interval=None if interval is None else list(interval),
        t_p_value=paired_t(differences) if is_measured else None,
        permutation_p_value=sign_flip(differences) if len(seeds) > 1 else None,
        least_p_value=2.0 ** (1 - len(seeds)) if len(seeds) > 1 else None,
        outcome=_outcome(interval),
    )


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t test; 1 where all differences are zero, None for one value or equal ones."""
    if len(differences) < 2:
        return None
    if not any(differences):
        return 1.0
    spread = stdev(differences)
    if spread <= _ROUNDING * max(map(abs, differences)):
        return None
    from scipy.stats import t

    statistic = fmean(differences) / (spread / math.sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p-value of the mean among the means under every change of signs; drawn ones beyond 16 values."""
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count <= _COUNTED_SEEDS:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        means = np.abs(signs @ values)
        return float(np.mean(means >= abs(values.sum()) * (1 - 1e-9)))
    signs = np.random.default_rng(_SEED).choice([-1.0, 1.0], size=(_DRAWS, count))
    hits = int(np.sum(np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-9)))
    return (hits + 1) / (_DRAWS + 1)  # the observed signs are one of the draws


def _outcome(interval: tuple[float, float] | None) -> Outcome:
    if interval is None:
        return Outcome.UNKNOWN
    low, high = interval
    if low <= 0 <= high:
        return Outcome.NO_DIFFERENCE
    return Outcome.BETTER if low > 0 else Outcome.WORSE


def _student(num_values: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, num_values - 1))
