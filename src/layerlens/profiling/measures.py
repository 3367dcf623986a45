"""Everything that a profile says of a layer's gradients, layer by layer: the Grams of no more than one exist at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from layerlens.artifacts.layers import LayerSpec
from layerlens.linalg.fast_products import fast_products
from layerlens.profiling.gains import last_readers
from layerlens.profiling.intervals import Interval, intervals, replicates
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.statistics import Statistics
from layerlens.progress import SILENT, Progress


@dataclass
class Measures:
    """What was found, by layer; those of further blocks may be added.

    Attributes:
        raw: Metrics.
        curves: Gain in nats at rank 1 …; empty without Grams.
        intervals: 95 % intervals of the metrics.
        replicates: The metrics on resampled samples, the same for all layers.
    """

    raw: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, Float[np.ndarray, " ranks"]] = field(default_factory=dict)
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    replicates: dict[str, dict[str, Float[np.ndarray, " replicates"]]] = field(default_factory=dict)

    def update(self, other: Measures) -> None:
        """Add the layers of another block."""
        self.raw.update(other.raw)
        self.curves.update(other.curves)
        self.intervals.update(other.intervals)
        self.replicates.update(other.replicates)


@fast_products()
def measure_layers(
    statistics: Statistics,
    layers: Sequence[LayerSpec],
    counts: Int[np.ndarray, "resamples samples"],
    *,
    damping: float | None,
    max_rank: int,
    is_cross_fitted: bool = True,
    releases: bool = True,
    progress: Progress = SILENT,
) -> Measures:
    """Metrics, intervals, replicates and curves of layers from the statistics of one pass.

    Args:
        statistics: Of these layers, and of no others that are wanted later.
        layers: In forward order.
        counts: From `intervals.resampled_counts`, the same for all layers of a model.
        damping: Ridge on each Gram as a share of its mean eigenvalue; none for curves of the gradient as it is.
        max_rank: Longest curve.
        is_cross_fitted: Off, directions are scored on the samples that they come from.
        releases: Each layer's statistics are let go of once it is measured.
        progress: Told of every layer.
    """
    found = Measures()
    last = last_readers(statistics, layers)
    for spec in progress.track(layers, "gain curves", total=len(layers)):
        sums = statistics.layers[spec.layer]
        one = replace(statistics, layers={spec.layer: sums})
        found.raw |= raw_metrics(one)
        found.intervals |= intervals(one, counts)
        found.replicates |= replicates(one, counts)
        found.curves[spec.layer] = sums.gain_curve(
            statistics.half_sizes,
            damping=damping,
            max_rank=max_rank,
            num_terms=statistics.num_terms,
            is_cross_fitted=is_cross_fitted,
            releases=releases,
        )
        if spec.layer in last:
            sums.shared.forget(releases=releases)
    return found
