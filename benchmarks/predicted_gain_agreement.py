"""How well a score orders layers or plans: Spearman with an interval, within roles, and the overlap of the leading few.

Within role    the mean, unweighted, of Spearman's correlation in each role that has at least `LEAST_IN_ROLE` layers: how well a
               score tells layers of one shape and place apart, where size and role say nothing.
Pooled         each layer's rank in its role as a share of the role's ranks, in [0, 1], correlated over all layers of roles with
               two layers or more: one figure of more points, in which large roles weigh more.
Top K          the K layers of highest score that are among the K of highest gain, over K; K a quarter of the layers, rounded.
Interval       95 %, percentiles over draws of layers and, at once, of held-out samples, both with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from layerlens.validation.association import average_ranks, pearson, spearman

LEAST_IN_ROLE = 4
TOP_SHARE = 0.25
NUM_DRAWS = 1000

#: Layers drawn, and the gain of each over the samples drawn.
Draw = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """A score against the measured gains; none where it is not defined (a constant score)."""

    spearman: float | None
    interval: tuple[float, float] | None
    within_role: float | None
    pooled: float | None
    top: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def agreement(scores: Sequence[float], drops: np.ndarray, roles: Sequence[str], draws: Sequence[Draw]) -> Agreement:
    """Compare a score with measured drops of loss.

    Args:
        scores: One for each layer, higher is better.
        drops: Drop of each held-out sample, `[layers, samples]`, nats.
        roles: Role of each layer.
        draws: Of the same drops, by `draw`.
    """
    gains = drops.mean(axis=1).tolist()
    rho = spearman(scores, gains)
    return Agreement(
        spearman=rho,
        interval=None if rho is None else spearman_interval(scores, draws),
        within_role=within_role(scores, gains, roles),
        pooled=pooled_within_role(scores, gains, roles),
        top=None if rho is None else top_overlap(scores, gains),
    )


def draw(drops: np.ndarray, *, seed: int = 0, num_draws: int = NUM_DRAWS) -> list[Draw]:
    """Draw layers and samples with replacement, once for all scores.

    Returns:
        The layers that were drawn, and each one's mean drop over the samples that were drawn.
    """
    random = np.random.default_rng(seed)
    num_layers, num_samples = drops.shape
    found: list[Draw] = []
    for _ in range(num_draws):
        layers = np.asarray(random.integers(0, num_layers, num_layers))
        weights = np.bincount(random.integers(0, num_samples, num_samples), minlength=num_samples) / num_samples
        found.append((layers, (drops @ weights)[layers]))
    return found


def within_role(scores: Sequence[float], gains: Sequence[float], roles: Sequence[str]) -> float | None:
    """Mean Spearman over roles with enough layers; a role whose scores are all equal counts as 0, none if no role is left."""
    found = []
    for role in sorted(set(roles)):
        members = [number for number, own in enumerate(roles) if own == role]
        if len(members) >= LEAST_IN_ROLE:
            found.append(spearman([scores[number] for number in members], [gains[number] for number in members]) or 0.0)
    return float(np.mean(found)) if found else None


def pooled_within_role(scores: Sequence[float], gains: Sequence[float], roles: Sequence[str]) -> float | None:
    """Correlation of the ranks within the roles, each as a share, over all layers at once."""
    predicted: list[float] = []
    measured: list[float] = []
    for role in sorted(set(roles)):
        members = [number for number, own in enumerate(roles) if own == role]
        if len(members) > 1:
            for side, values in ((predicted, scores), (measured, gains)):
                side += [(rank - 1) / (len(members) - 1) for rank in average_ranks([values[number] for number in members])]
    return pearson(predicted, measured)


def top_overlap(scores: Sequence[float], gains: Sequence[float], share: float = TOP_SHARE) -> float:
    """Share of the leading layers by gain that lead by score too; ties go to the earlier layer."""
    count = max(1, round(share * len(scores)))
    return len(set(leading(scores, count)) & set(leading(gains, count))) / count


def leading(values: Sequence[float], count: int) -> list[int]:
    """Positions of the `count` highest values, the first of equals first."""
    return sorted(range(len(values)), key=lambda number: (-values[number], number))[:count]


def spearman_interval(scores: Sequence[float], draws: Sequence[Draw]) -> tuple[float, float] | None:
    """Interval of Spearman's correlation over layers and samples; none where too few draws are defined."""
    own = np.asarray(scores, dtype=np.float64)
    found = [rho for layers, gains in draws if (rho := spearman(own[layers].tolist(), gains.tolist())) is not None]
    if not found or len(found) < len(draws) / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def regret(scores: Sequence[float], losses: Sequence[float]) -> float:
    """Loss of the plan that a score picks (the first of equals) minus that of the best, nats."""
    return float(losses[leading(scores, 1)[0]] - min(losses))
