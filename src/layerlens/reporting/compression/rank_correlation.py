"""Spearman's rank correlation (Spearman, 1904): Pearson's correlation of the ranks, tied values sharing their mean rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Two points always lie on a line.
MIN_POINTS = 3


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation in [-1, 1]; None where one list is constant or there are fewer than three points."""
    if len(first) < MIN_POINTS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
