"""Is one arm better than another, or is the difference within noise?

Over several common seeds: Student's interval of the paired differences; none where they are all the same and not zero, for one
of no width would claim what a single seed cannot. With one seed, accuracy has a sampling interval (two independent proportions,
which is wider than a paired test would be); any other metric has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from layerlens.artifacts.evaluation import is_lower_better
from layerlens.reporting.arms import ArmGroup

#: Differences of this share of the scores are rounding.
_ROUNDING = 1e-12


class Outcome(StrEnum):
    """How the first arm stands to the second."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Comparison:
    """Difference of two arms in a metric, first minus second, with its 95 % interval where there is one."""

    difference: float
    interval: tuple[float, float] | None
    basis: str
    outcome: Outcome


def compare(first: ArmGroup, second: ArmGroup, metric: str, eval_samples: int) -> Comparison | None:
    """Compare two arms.

    Args:
        first: The arm to judge.
        second: What it is judged against.
        metric: Key of both arms' metrics.
        eval_samples: Samples that both were scored on.

    Returns:
        The comparison; None where an arm lacks the metric.
    """
    ours, theirs = ({arm.seed: arm.metrics[metric] for arm in group.arms if metric in arm.metrics} for group in (first, second))
    if not ours or not theirs:
        return None
    common = sorted(ours.keys() & theirs.keys())
    if len(common) > 1:
        differences = [ours[seed] - theirs[seed] for seed in common]
        center, spread = fmean(differences), stdev(differences)
        rounding = _ROUNDING * max(abs(value) for seed in common for value in (ours[seed], theirs[seed]))
        if spread <= rounding < abs(center):
            return Comparison(center, None, f"{len(common)} seeds that all differ by as much", Outcome.UNKNOWN)
        half = max(rounding, _student(len(common)) * spread / math.sqrt(len(common)))
        return _judge(center, half, f"{len(common)} paired seeds", metric)
    a, b = (ours[common[0]], theirs[common[0]]) if common else (fmean(ours.values()), fmean(theirs.values()))
    if metric == "accuracy" and eval_samples > 0:
        half = 1.96 * math.sqrt((a * (1 - a) + b * (1 - b)) / eval_samples)
        return _judge(a - b, half, f"one seed, {eval_samples:,} evaluation samples", metric)
    return Comparison(a - b, None, "one seed", Outcome.UNKNOWN)


def _judge(center: float, half: float, basis: str, metric: str) -> Comparison:
    low, high = center - half, center + half
    if low <= 0 <= high:
        outcome = Outcome.NOISE
    else:
        outcome = Outcome.BETTER if (center > 0) is not is_lower_better(metric) else Outcome.WORSE
    return Comparison(center, (low, high), basis, outcome)


def _student(num_values: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, num_values - 1))
