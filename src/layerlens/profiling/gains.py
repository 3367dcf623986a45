"""Gain curves of all layers from the statistics of one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.curves.cross_fitted_gain import cross_fitted_gain
from layerlens.linalg.cholesky_whitening import damped_cholesky, whiten
from layerlens.profiling.statistics_pass import Statistics
from layerlens.progress import SILENT, Progress


def gain_curves(
    statistics: Statistics, layers: Sequence[LayerSpec], *, damping: float, max_rank: int, progress: Progress = SILENT
) -> dict[str, Float[np.ndarray, " ranks"]]:
    """Cross-fitted gain in nats at rank 1 … max_rank of every layer; zero for a layer without a gradient.

    Layers that read the same input share the factor of A.
    """
    curves: dict[str, Float[np.ndarray, " ranks"]] = {}
    factored: tuple[str, Tensor | None] | None = None
    for spec in progress.track(layers, "gain curves", total=len(layers)):
        group = statistics.input_groups[spec.layer]
        if factored is None or factored[0] != group:
            input_gram = statistics.layers[spec.layer].shared.input_gram
            factored = group, None if input_gram is None else damped_cholesky(input_gram, damping)
        output_gram = statistics.layers[spec.layer].output_gram
        output_factor = None if output_gram is None else damped_cholesky(output_gram, damping)
        if factored[1] is None or output_factor is None:
            curves[spec.layer] = np.zeros(max_rank)
            continue
        first, second = (whiten(half, output_factor, factored[1]) for half in statistics.mean_gradients(spec.layer))
        curves[spec.layer] = cross_fitted_gain(first, second, max_rank, num_terms=statistics.num_terms)
    return curves
