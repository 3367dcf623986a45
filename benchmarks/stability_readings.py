"""How far several profiles of one model agree: readings with 95 % intervals. Pure numpy.

`utilities` is float64 [groups profiles layers] throughout, `ranks` int64 [groups profiles layers], `curves` float64
[groups profiles layers ranks] (cumulative gain at rank 1 … R). Profiles are compared within their group alone; K is the number of
profiles in a group. Intervals of what is a mean over layers come from resampling layers, those of the rest from resampling the
profiles of each group: wide and rough with few, and none with two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from scipy.stats import spearmanr

RESAMPLES = 1000


@dataclass(frozen=True)
class Reading:
    """A figure with the interval that holds 95 % of its bootstrap copies; none where nothing can be resampled."""

    value: float
    low: float | None = None
    high: float | None = None


def relative_spread(utilities: np.ndarray) -> float:
    """Standard deviation of a layer's utility over the profiles of a group (K − 1), mean over layers, over the mean utility.

    Variances of several groups are averaged first.
    """
    return float(_deviations(utilities).mean() / utilities.mean())


def layer_variation(utilities: np.ndarray) -> float:
    """Median over layers of a layer's own coefficient of variation."""
    means = utilities.mean(axis=(0, 1))
    return float(np.median(np.divide(_deviations(utilities), means, out=np.zeros_like(means), where=means > 0)))


def mean_difference(utilities: np.ndarray) -> float:
    """Mean over pairs of profiles and over layers of |u − u'|, on the scale 0 … 1 of utilities."""
    return float(np.mean([np.abs(first - second).mean() for first, second in _pairs(utilities)]))


def variance_share(utilities: np.ndarray) -> float:
    """Variance within groups (mean over layers) over that plus the variance between layers, mean over groups.

    One minus the intraclass correlation ICC(1): what part of a utility's variance is not the layer's.
    """
    shares = []
    for group in utilities:
        within = group.var(axis=0, ddof=1).mean()
        # The variance of the layers' means holds within / K of noise as well.
        between = max(0.0, float(group.mean(axis=0).var(ddof=1) - within / len(group)))
        shares.append(within / (within + between) if within + between > 0 else 0.0)
    return float(np.mean(shares))


def rank_correlation(utilities: np.ndarray) -> float:
    """Spearman correlation of two profiles' utilities, mean over pairs."""
    return float(np.mean([spearmanr(first, second).statistic for first, second in _pairs(utilities)]))


def changed_ranks(ranks: np.ndarray) -> float:
    """Share of layers to which two plans give different ranks, mean over pairs."""
    return float(np.mean([(first != second).mean() for first, second in _pairs(ranks)]))


def moved_rank(ranks: np.ndarray) -> float:
    """Sum over layers of |r − r'| over the mean sum of ranks, mean over pairs: 0 for equal plans, 2 for disjoint ones."""
    whole = ranks.sum(axis=2).mean()
    return float(np.mean([np.abs(first - second).sum() / whole for first, second in _pairs(ranks)]))


def kept_values(ranks: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Value of profile a's plan under profile b's curves over that of b's own plan, float64 [groups profiles profiles], a first.

    Plans of one budget: 1 says that it does not matter which of the two profiles the plan came from.
    """
    padded = np.concatenate([np.zeros_like(curves[..., :1]), curves], axis=3)
    layers = np.arange(ranks.shape[2])
    longest = curves.shape[3]
    kept = []
    for plans, judges in zip(ranks, padded, strict=True):
        values = np.array([[judge[layers, np.minimum(plan, longest)].sum() for judge in judges] for plan in plans])
        kept.append(values / np.diagonal(values)[None, :])
    return np.array(kept)


def kept_value(kept: np.ndarray) -> float:
    """Mean of `kept_values` over ordered pairs of different profiles."""
    return float(np.mean([group[pair] for group in kept for pair in permutations(range(len(group)), 2)]))


def value_spread(values: np.ndarray) -> float:
    """Standard deviation over mean of one number per profile, float64 [groups profiles]; variances averaged over groups."""
    return float(np.sqrt(values.var(axis=1, ddof=1).mean()) / values.mean())


def over_layers(reading: Callable[[np.ndarray], float], values: np.ndarray) -> Reading:
    """A reading with its interval by resampling layers."""
    rng = np.random.default_rng(0)
    count = values.shape[2]
    copies = [reading(values[:, :, rng.integers(0, count, count)]) for _ in range(RESAMPLES)]
    return Reading(reading(values), *(float(end) for end in np.nanpercentile(copies, [2.5, 97.5])))


def over_profiles(kept: np.ndarray) -> Reading:
    """`kept_value` with its interval by resampling profiles; copies of a profile are never paired with each other."""
    rng = np.random.default_rng(0)
    count = kept.shape[1]
    copies: list[float] = []
    while count > 2 and len(copies) < RESAMPLES:
        pairs = []
        for group in kept:
            drawn: list[int] = rng.integers(0, count, size=(count,)).tolist()
            pairs += [group[first, second] for first, second in permutations(drawn, 2) if first != second]
        if pairs:
            copies.append(float(np.mean(pairs)))
    return Reading(kept_value(kept), *_ends(copies))


def spread_of(values: np.ndarray) -> Reading:
    """`value_spread` with its interval by resampling profiles."""
    rng = np.random.default_rng(0)
    count = values.shape[1]
    copies = []
    if count > 2:
        for _ in range(RESAMPLES):
            drawn = np.stack([group[rng.integers(0, count, count)] for group in values])
            copies.append(value_spread(drawn))
    return Reading(value_spread(values), *_ends(copies))


def _deviations(utilities: np.ndarray) -> np.ndarray:
    """Standard deviation of each layer over the profiles of a group, float64 [layers]."""
    return np.sqrt(utilities.var(axis=1, ddof=1).mean(axis=0))


def _pairs(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(group[first], group[second]) for group in values for first, second in combinations(range(len(group)), 2)]


def _ends(copies: list[float]) -> tuple[float, ...]:
    return tuple(float(end) for end in np.percentile(copies, [2.5, 97.5])) if copies else ()
