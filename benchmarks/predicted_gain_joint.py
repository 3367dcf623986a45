"""What a whole plan is worth, from what its layers are worth alone: models of joint value that need no further training.

Gains do not add, because every layer can repair much of the same error. With v_l the gain of layer l at its rank, in nats:

additive            Σ v_l
shared              Σ s_l v_l, with a share s below 1 for what makes queries, keys and values, 1 for the rest
powers              Σ v_l^p: with p < 1 breadth counts for more than height, with p > 1 many small gains count for little
saturating          T · (1 − Π (1 − v_l / T)): each layer takes its share of what is left of the T nats that can be had
by group            Σ_groups (Σ_{l in group} v_l)^p: what saturates is a role, a block, or a sublayer of a block
redundant           (Σ v_l)² / Σ_{l,m} ρ_lm √(v_l v_m): Σ v_l where layers are independent (ρ = identity), the value of one where
                    all are the same. ρ is a similarity of layers in [0, 1]: of their kernels over samples, or of their places
MLP alone           Σ v_l over the layers of the MLPs
discounted          Σ_k γ^k v_(k), the gains in falling order

Anchored models take one or two numbers from a few plans that were trained. Values only order plans: no model's scale is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.budget.values import joint_share
from layerlens.words import Role


@dataclass(frozen=True)
class Part:
    """One adapted layer of a plan, with its gain alone at its rank, nats."""

    layer: str
    role: str
    block: int
    gain: float


def additive(parts: Sequence[Part]) -> float:
    """Sum of the gains."""
    return float(sum(part.gain for part in parts))


def shared(parts: Sequence[Part], share: float) -> float:
    """Sum of the gains, those of the layers that make queries, keys and values times a share: what the planner maximises."""
    return float(sum(part.gain * (share if joint_share(Role(part.role)) < 1.0 else 1.0) for part in parts))


def powers(parts: Sequence[Part], power: float) -> float:
    """Sum of the gains, each to a power above zero."""
    return float(sum(max(0.0, part.gain) ** power for part in parts))


def saturating(parts: Sequence[Part], total: float) -> float:
    """Share of `total` nats that is left to none of the layers; a gain above the total counts as all of it."""
    left = np.prod([1.0 - min(max(part.gain, 0.0) / total, 1.0) for part in parts]) if parts else 1.0
    return float(total * (1.0 - left))


def grouped(parts: Sequence[Part], group_of: Callable[[Part], Hashable], power: float) -> float:
    """Sum over groups of the group's summed gain to a power."""
    sums: dict[Hashable, float] = {}
    for part in parts:
        key = group_of(part)
        sums[key] = sums.get(key, 0.0) + max(0.0, part.gain)
    return float(sum(total**power for total in sums.values()))


def redundant(parts: Sequence[Part], similarity: Callable[[Part, Part], float]) -> float:
    """Sum of the gains divided by how many times over the layers do the same."""
    roots = np.sqrt([max(0.0, part.gain) for part in parts])
    total = float((roots**2).sum())
    if total == 0.0:
        return 0.0
    matrix = np.array([[similarity(one, other) for other in parts] for one in parts])
    return total**2 / float(roots @ matrix @ roots)


def of_mlp(parts: Sequence[Part]) -> float:
    """Sum of the gains of MLP layers alone: what attention repairs, they repair too."""
    return additive([part for part in parts if part.role.startswith("mlp.")])


def discounted(parts: Sequence[Part], factor: float) -> float:
    """Gains in falling order, each counted `factor` times the weight of the one before."""
    return float(sum(factor**place * gain for place, gain in enumerate(sorted((part.gain for part in parts), reverse=True))))


def sublayer(part: Part) -> tuple[int, bool]:
    """Attention or MLP of a block: layers that read the same input and write to the same residual stream."""
    return part.block, part.role.startswith("mlp.")


def place_similarity(one: Part, other: Part, *, reach: float = 2.0) -> float:
    """1 for the same layer, else falling with the distance in blocks: half within a block, e-fold every `reach` blocks."""
    if one.layer == other.layer:
        return 1.0
    return 0.5 * float(np.exp(-abs(one.block - other.block) / reach))


def alignment(kernels: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Cosine between the layers' kernels over samples, uncentred: how far two layers see the same differences.

    Args:
        kernels: `[samples, samples]` of each layer.
    """
    names = list(kernels)
    rows = np.stack([kernels[name].ravel() / max(float(np.linalg.norm(kernels[name])), 1e-30) for name in names])
    cosines = np.clip(rows @ rows.T, 0.0, 1.0)
    return {(one, other): float(cosines[i, j]) for i, one in enumerate(names) for j, other in enumerate(names)}


def anchored(features: np.ndarray, losses: np.ndarray, anchors: Sequence[int]) -> np.ndarray:
    """Predict every plan's loss from a few that were trained: an intercept and a weight ≤ 0 for each feature.

    Args:
        features: `[plans, features]`, more is better; each is standardised over all plans.
        losses: Final losses `[plans]`; only those of the anchors are read.
        anchors: Which plans were trained.

    Returns:
        Predicted losses `[plans]`, nats; the anchors' mean where no feature helps.
    """
    from scipy.optimize import nnls

    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    own = scaled[list(anchors)]
    target = losses[list(anchors)]
    weights, _ = nnls(own.mean(axis=0) - own, target - target.mean())
    return target.mean() - (scaled - own.mean(axis=0)) @ weights


def fitted_total(
    plans: Sequence[Sequence[Part]], losses: np.ndarray, anchors: Sequence[int], totals: Sequence[float]
) -> np.ndarray:
    """Saturating values of all plans at the total that fits the anchors' losses best, with a scale of its own."""
    best: tuple[float, np.ndarray] | None = None
    for total in totals:
        values = np.array([saturating(parts, total) for parts in plans])
        predicted = anchored(values[:, None], losses, anchors)
        error = float(((predicted - losses)[list(anchors)] ** 2).sum())
        if best is None or error < best[0] - 1e-15:
            best = error, -predicted
    if best is None:
        raise ValueError("at least one total is needed")
    return best[1]


def anchor_sets(num_plans: int, size: int, *, num_draws: int, seed: int = 0) -> list[list[int]]:
    """Random sets of plans to train, drawn without replacement."""
    random = np.random.default_rng([seed, size])
    return [sorted(random.choice(num_plans, size, replace=False).tolist()) for _ in range(num_draws)]
