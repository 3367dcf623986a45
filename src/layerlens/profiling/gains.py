"""Gain curves of all layers from the statistics of one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from layerlens.artifacts.layers import LayerSpec
from layerlens.profiling.statistics import Statistics
from layerlens.progress import SILENT, Progress


def gain_curves(
    statistics: Statistics,
    layers: Sequence[LayerSpec],
    *,
    damping: float | None,
    max_rank: int,
    is_cross_fitted: bool = True,
    releases: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Float[np.ndarray, " ranks"]]:
    """Cross-fitted gain in nats at rank 1 … max_rank of every layer; zero for a layer without a gradient.

    Layers that read the same input share the factor of A.

    Args:
        statistics: Of these layers.
        layers: In forward order.
        damping: Ridge on each Gram as a share of its mean eigenvalue; none for curves of the gradient as it is.
        max_rank: Longest curve.
        is_cross_fitted: Off, directions are scored on the samples that they come from.
        releases: Each layer's statistics are let go of once its curve is there, and only losses, norms and metrics that
            were asked for before remain; takes a third of the memory.
        progress: Told of every layer.
    """
    curves: dict[str, Float[np.ndarray, " ranks"]] = {}
    last = last_readers(statistics, layers)
    for spec in progress.track(layers, "gain curves", total=len(layers)):
        sums = statistics.layers[spec.layer]
        curves[spec.layer] = sums.gain_curve(
            statistics.half_sizes,
            damping=damping,
            max_rank=max_rank,
            num_terms=statistics.num_terms,
            is_cross_fitted=is_cross_fitted,
            releases=releases,
        )
        if spec.layer in last:
            sums.shared.forget(releases=releases)
    return curves


def last_readers(statistics: Statistics, layers: Sequence[LayerSpec]) -> set[str]:
    """Layers after which, in this order, no other needs what they share with those that read the same input."""
    return set({id(statistics.layers[spec.layer].shared): spec.layer for spec in layers}.values())
