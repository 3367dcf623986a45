"""Scores of predictions, in numpy; every one is finite, also where its formula divides by zero.

Sources: Matthews (1975) in the multi-class form of Gorodkin (2004); Spearman (1904) on mean ranks.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int


def accuracy(predicted: Int[np.ndarray, " samples"], actual: Int[np.ndarray, " samples"]) -> float:
    """Share of samples predicted right."""
    return float(np.mean(predicted == actual))


def f1(predicted: Int[np.ndarray, " samples"], actual: Int[np.ndarray, " samples"], positive: int = 1) -> float:
    """Harmonic mean of precision and recall of one class; 0 where that class is neither predicted nor there."""
    hits = int(np.sum((predicted == positive) & (actual == positive)))
    named = int(np.sum(predicted == positive)) + int(np.sum(actual == positive))
    return 2 * hits / named if named else 0.0


def macro_f1(predicted: Int[np.ndarray, " samples"], actual: Int[np.ndarray, " samples"]) -> float:
    """Mean F1 over the classes that are predicted or there."""
    classes = np.union1d(predicted, actual)
    return float(np.mean([f1(predicted, actual, int(positive)) for positive in classes]))


def matthews(predicted: Int[np.ndarray, " samples"], actual: Int[np.ndarray, " samples"]) -> float:
    """Matthews correlation of two labellings; 0 where one of them is constant."""
    classes = np.union1d(predicted, actual)
    one_hot_predicted = (predicted[:, None] == classes).astype(np.float64)
    one_hot_actual = (actual[:, None] == classes).astype(np.float64)
    centred_predicted = one_hot_predicted - one_hot_predicted.mean(0)
    centred_actual = one_hot_actual - one_hot_actual.mean(0)
    scale = math.sqrt(float(np.sum(centred_predicted**2)) * float(np.sum(centred_actual**2)))
    return float(np.sum(centred_predicted * centred_actual)) / scale if scale > 0 else 0.0


def pearson(predicted: Float[np.ndarray, " samples"], actual: Float[np.ndarray, " samples"]) -> float:
    """Linear correlation; 0 where one side is constant (to rounding)."""
    first, second = predicted - predicted.mean(), actual - actual.mean()
    sizes = [float(np.linalg.norm(side)) for side in (first, second)]
    floors = [1e-12 * float(np.linalg.norm(side)) for side in (predicted, actual)]
    if sizes[0] <= floors[0] or sizes[1] <= floors[1]:
        return 0.0
    return float(np.clip(first @ second / (sizes[0] * sizes[1]), -1.0, 1.0))


def spearman(predicted: Float[np.ndarray, " samples"], actual: Float[np.ndarray, " samples"]) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where one side is constant."""
    return pearson(mean_ranks(predicted), mean_ranks(actual))


def mean_ranks(values: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def mean_squared_error(predicted: Float[np.ndarray, " samples"], actual: Float[np.ndarray, " samples"]) -> float:
    """Mean of squared differences."""
    return float(np.mean((predicted - actual) ** 2))


def perplexity(loss_nats: float) -> float:
    """Perplexity of a mean loss per token; the exponent is cut at 700 so that a diverged model stays a number."""
    return math.exp(min(loss_nats, 700.0))
