"""Raw metrics of every layer from the sums of the pass."""

from __future__ import annotations

from layerlens.profiling.statistics import Statistics


def raw_metrics(statistics: Statistics) -> dict[str, dict[str, float]]:
    """Compute each layer's gradient energy and Fisher trace.

    Returns:
        By layer: `gradient_norm_squared` ‖G‖²_F of the mean over all samples; `gradient_energy`, the same debiased by
        (empirical Fisher trace)/N, so that pure noise is about zero and may come out negative; `fisher`, at the labels that
        the pass was asked for; and `fisher_empirical` beside it where these were sampled, because the debiasing needs it.
        Sums are in float64.
    """
    num_samples = sum(statistics.half_sizes)
    metrics: dict[str, dict[str, float]] = {}
    for name, sums in statistics.layers.items():
        norm_squared = sums.mean_gradient_energy(num_samples)
        empirical = float(statistics.norms(name, "empirical").mean())
        values = {"gradient_energy": norm_squared - empirical / num_samples, "fisher": empirical}
        if sums.norms["true"]:
            values |= {"fisher": float(statistics.norms(name, "true").mean()), "fisher_empirical": empirical}
        metrics[name] = values | {"gradient_norm_squared": norm_squared}
    return metrics
