"""Raw metrics to [0, 1] within the model, and their weighted mean: the only place where anything is normalised.

The rule, for each metric over all layers of the model:

1. Clip at zero: a debiased energy or a held-out drop below zero means nothing was found there.
2. Root the metrics that are squared gradients (gradient_energy, fisher), so that they count in loss per unit of weight change:
   squares span several orders of magnitude between the blocks of one model and would leave one layer at 1 and the rest at 0.
   `proxy_eval` is a loss already and stays as it is.
3. Divide by the largest. Zero stays zero, equal layers stay equal (all 1, where min-max would blow up their
   last digits), and ratios between layers survive. A metric that is zero everywhere stays zero.

Utility is the weighted mean of the normalised metrics, so it lies in [0, 1] and is not divided again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SQUARED_METRICS = frozenset({"gradient_energy", "fisher"})
#: Utilities with a coefficient of variation below this cannot tell layers apart.
LEAST_VARIATION = 0.2
#: A total gradient energy below this share of what noise alone would leave is taken for noise.
_LEAST_SIGNAL = 0.1


def normalise(raw: Mapping[str, float], metric: str) -> dict[str, float]:
    """Map one metric of all layers to [0, 1] by the rule above."""
    clipped = {layer: max(0.0, value) for layer, value in raw.items()}
    scaled = {layer: value**0.5 if metric in SQUARED_METRICS else value for layer, value in clipped.items()}
    largest = max(scaled.values(), default=0.0)
    return {layer: value / largest if largest > 0.0 else 0.0 for layer, value in scaled.items()}


def utility(normalised: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted mean of a layer's normalised metrics over those that have a weight."""
    total = sum(weights.values())
    mean = sum(weight * normalised[metric] for metric, weight in weights.items()) / total
    return min(1.0, max(0.0, mean))


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Standard deviation over mean; zero where the mean is zero."""
    mean = float(np.mean(values)) if len(values) else 0.0
    return float(np.std(values)) / mean if mean > 0.0 else 0.0


def spread_warnings(utilities: Sequence[float], metrics: Sequence[Mapping[str, float]], num_samples: int) -> list[str]:
    """What a person should know before trusting the utilities.

    Args:
        utilities: Of each layer.
        metrics: Raw metrics of each layer.
        num_samples: Samples behind them.
    """
    warnings = []
    variation = coefficient_of_variation(utilities)
    if len(utilities) > 1 and variation < LEAST_VARIATION:
        warnings.append(
            f"utilities cannot tell the layers apart: their coefficient of variation is {variation:.3f}, "
            f"under {LEAST_VARIATION}; profile more samples or other metrics"
        )
    energy = sum(values["gradient_energy"] for values in metrics)
    noise = sum(values["gradient_norm_squared"] - values["gradient_energy"] for values in metrics)
    if energy <= _LEAST_SIGNAL * noise:
        warnings.append(
            f"the gradient energy of {num_samples} samples is within noise (debiased {energy:.3g} against {noise:.3g} "
            "that noise alone leaves); profile more samples"
        )
    return warnings
