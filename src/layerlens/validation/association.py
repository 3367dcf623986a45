"""How two lists of numbers go together. Every measure is None where it is not defined, so that a constant never passes.

Ranks of tied values are averaged, as in Spearman (1904). A list counts as constant when its spread is below a
billionth of its largest absolute value: rounding is no information.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_POINTS = 3
"""Two points always lie on a line."""


def is_constant(values: Sequence[float]) -> bool:
    """Whether the values differ by no more than rounding."""
    array = np.asarray(values, dtype=np.float64)
    return array.size == 0 or float(np.ptp(array)) <= 1e-9 * float(np.abs(array).max())


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation in [-1, 1]; None for a constant list or fewer than three points."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    if len(first) < MIN_POINTS or is_constant(first) or is_constant(second):
        return None
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    a, b = ((x - x.mean()) / np.abs(x - x.mean()).max() for x in (a, b))
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def average_ranks(values: Sequence[float]) -> list[float]:
    """Rank from 1 upwards; tied values share the mean of the ranks they take up."""
    array = np.asarray(values, dtype=np.float64)
    _, place, count = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return [float(rank) for rank in (last - (count - 1) / 2)[place]]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1]; None for a constant list or fewer than three points."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    if is_constant(first) or is_constant(second):
        return None
    return pearson(average_ranks(first), average_ranks(second))


def pairwise_consistency(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Share in [0, 1] of the pairs that both lists order alike.

    Only pairs that differ in both lists are counted: a tie says nothing for or against. None where no pair is left.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    upper = np.triu_indices(a.size, k=1)
    signs = np.sign(a[:, None] - a[None, :])[upper] * np.sign(b[:, None] - b[None, :])[upper]
    ordered = int((signs != 0).sum())
    return float((signs > 0).sum() / ordered) if ordered else None


def variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation, population standard deviation ÷ mean; None where the mean is not above zero."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.mean() <= 0:
        return None
    return float(array.std() / array.mean())
