"""How far the metrics of a profile would move on other samples: 95 % intervals, and replicates for what is made of the metrics.

**Fisher trace**, a mean of squared norms n_i, which are positive and skewed: bootstrap-t. The interval is m − t* se with t* the
quantiles of (m* − m)/se* over resamples; percentile and basic intervals of so skewed a mean cover far less than they say.

**Gradient energy**, ‖mean gradient‖² debiased, is (N − 1)/N times the U-statistic u = mean over i ≠ j of ⟨D_i, D_j⟩. With a_i
the mean of ⟨D_i, D_j⟩ over j, ζ₁ the variance of ⟨D_i, E D⟩ and ζ₂ the variance of what is left of ⟨D_i, D_j⟩ beside its margins,

    Var u = 4 ζ₁/N + 2 ζ₂/(N(N − 1)),    Var a_i ≈ ζ₁ + ζ₂/(N − 1),    Var⟨D_i, D_j⟩ = 2 ζ₁ + ζ₂.

The interval is u ± t_{N−1} √Var u. A plain bootstrap fails here: resampled duplicates add the noise that the debiasing took
away, and where there is no signal (ζ₁ = 0, u is degenerate) the variance of its replicates is three times that of u.

**Replicates** share the resampled samples among all layers, so that what is made of several layers, such as a utility, gets
its interval from them. Those of the energy are

    u + 2 Σ_i ξ_i h_i/N + Σ_{i≠j} ξ_i ξ_j H_ij/(N(N − 1)),

where ξ_i is how often sample i was drawn less one, and margins h_i and rest H_ij are scaled to the variances above. All are
widened by t_{N−1}/1.96, which matters for few samples.

In feature space the angles between gradients are those of sketches (`linalg/kronecker_sketch.py`), and noise in these adds to ζ:
over the layers of a small sentence encoder the intervals were 1.4 times as wide as exact ones (5 % to 95 %: 0.95 to 2.1 times).

Sources: Efron, Tibshirani (1993), An introduction to the bootstrap, chapter 12; Hoeffding (1948), A class of statistics with
asymptotically normal distribution; Arcones, Giné (1992), On the bootstrap of U and V statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from layerlens.profiling.layer_statistics import GradientProducts
from layerlens.profiling.normalisation import normalise, utility
from layerlens.profiling.statistics import Statistics

LEVEL = 0.95
_TAILS = ((1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0)
#: Samples below which linear and degenerate parts cannot be told apart.
_FEWEST_TO_SPLIT = 7
_NORMAL_QUANTILE = 1.959963984540054

Interval = tuple[float, float]


def resampled_counts(num_samples: int, *, seed: int, num_replicates: int = 1000) -> Int[np.ndarray, "replicates samples"]:
    """How often each sample is drawn when as many are drawn with replacement; one row for each replicate."""
    return np.random.default_rng(seed).multinomial(num_samples, np.full(num_samples, 1.0 / num_samples), size=num_replicates)


def intervals(statistics: Statistics, counts: Int[np.ndarray, "replicates samples"]) -> dict[str, dict[str, Interval]]:
    """95 % intervals of `gradient_energy` and `fisher` of every layer.

    Args:
        statistics: Of one or more layers; not released.
        counts: From `resampled_counts`, columns in calibration order.
    """
    return {
        name: {
            "gradient_energy": _Energy.of(statistics, name).interval(),
            "fisher": mean_interval(_fisher(statistics, name), counts),
        }
        for name in statistics.layers
    }


def replicates(
    statistics: Statistics, counts: Int[np.ndarray, "replicates samples"]
) -> dict[str, dict[str, Float[np.ndarray, " replicates"]]]:
    """The two metrics of every layer on resampled samples, the same for all layers.

    Args:
        statistics: Of one or more layers; those of others may follow with the same counts.
        counts: From `resampled_counts`, columns in calibration order.
    """
    widening = _t_quantile(counts.shape[1]) / _NORMAL_QUANTILE
    found = {}
    for name in statistics.layers:
        norms = _fisher(statistics, name)
        fisher = norms.mean() + widening * (counts @ norms / len(norms) - norms.mean())
        found[name] = {"gradient_energy": _Energy.of(statistics, name).replicates(counts, widening), "fisher": fisher}
    return found


def utility_intervals(
    replicated: Mapping[str, Mapping[str, Float[np.ndarray, " replicates"]]],
    weights: Mapping[str, float],
    fixed: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Interval]:
    """95 % percentile intervals of the utilities of all layers.

    Percentiles, because a utility lies in [0, 1] and is 1 for the best layer whatever is drawn: its interval must do so too.

    Args:
        replicated: By layer and metric, from `replicates` with the same counts for every layer of the model.
        weights: Of each metric in the utility.
        fixed: By layer, metrics that are in the utility and have no replicates, such as `proxy_eval`.
    """
    layers = list(replicated)
    held = {
        metric: normalise({layer: values[metric] for layer, values in fixed.items()}, metric)
        for metric in weights
        if fixed and metric not in replicated[layers[0]]
    }
    num_replicates = len(next(iter(replicated[layers[0]].values())))
    drawn = np.zeros((num_replicates, len(layers)))
    for row in range(num_replicates):
        normalised = held | {
            metric: normalise({layer: float(replicated[layer][metric][row]) for layer in layers}, metric)
            for metric in weights
            if metric not in held
        }
        drawn[row] = [utility({metric: normalised[metric][layer] for metric in weights}, weights) for layer in layers]
    low, high = np.quantile(drawn, _TAILS, axis=0)
    return {layer: (float(low[column]), float(high[column])) for column, layer in enumerate(layers)}


def mean_interval(values: Float[np.ndarray, " samples"], counts: Int[np.ndarray, "replicates samples"]) -> Interval:
    """95 % bootstrap-t interval of the mean of non-negative values."""
    size, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / size**0.5 if size > 1 else 0.0
    if error == 0.0:
        return mean, mean
    means = counts @ values / size
    spreads = np.maximum(counts @ values**2 / size - means**2, 0.0)
    errors = np.sqrt(spreads / (size - 1))
    # A replicate of one sample alone has no spread; it is as far out as any.
    ratios = np.divide(means - mean, errors, out=np.full_like(means, np.inf) * np.sign(means - mean + 1e-300), where=errors > 0)
    low, high = np.quantile(ratios, _TAILS, method="nearest")
    bounded = [float(np.clip(quantile, -1e3, 1e3)) for quantile in (high, low)]
    return max(0.0, mean - bounded[0] * error), mean - bounded[1] * error


def _fisher(statistics: Statistics, layer: str) -> Float[np.ndarray, " samples"]:
    """Squared norms that the Fisher trace is the mean of, in calibration order."""
    sampled = statistics.norms(layer, "true")
    return sampled if len(sampled) else statistics.norms(layer, "empirical")


def _t_quantile(num_samples: int) -> float:
    return float(stdtrit(max(1, num_samples - 1), _TAILS[1]))


@dataclass(frozen=True)
class _Energy:
    """The debiased gradient energy as a U-statistic.

    Attributes:
        value: The metric.
        num_samples: N.
        margins: a_i less their mean, of the samples whose products are known.
        rest: H_ij of these.
        columns: Their columns in calibration order.
        linear: ζ₁.
        degenerate: ζ₂.
    """

    value: float
    num_samples: int
    margins: Float[np.ndarray, " some"]
    rest: Float[np.ndarray, "some some"]
    columns: Int[np.ndarray, " some"]
    linear: float
    degenerate: float

    @classmethod
    def of(cls, statistics: Statistics, layer: str) -> _Energy:
        """Variance components of a layer's energy."""
        num_samples = len(statistics.positions)
        sums = statistics.layers[layer]
        noise = float(statistics.norms(layer, "empirical").mean()) / num_samples
        products = sums.products(num_samples)
        margins, between = _margins(products, num_samples)
        some = len(margins)
        mean = float(margins.mean())
        off_diagonal = ~np.eye(some, dtype=bool)
        rest = np.where(off_diagonal, between - margins[:, None] - margins[None, :] + mean, 0.0)
        linear, degenerate = _components(
            float(margins.var(ddof=1)) if some > 1 else 0.0,
            float(between[off_diagonal].var()) if some > 1 else 0.0,
            num_samples,
            bound=(noise * num_samples) ** 2,
        )
        return cls(
            value=sums.mean_gradient_energy(num_samples) - noise,
            num_samples=num_samples,
            margins=margins - mean,
            rest=rest,
            columns=np.asarray(statistics.positions)[products.positions.cpu().numpy()],
            linear=linear,
            degenerate=degenerate,
        )

    @property
    def _scale(self) -> float:
        # The metric is (N − 1)/N of the U-statistic.
        return (self.num_samples - 1) / self.num_samples

    def interval(self) -> Interval:
        """Value ± t standard errors."""
        pairs = max(1, self.num_samples * (self.num_samples - 1))
        error = (4.0 * self.linear / self.num_samples + 2.0 * self.degenerate / pairs) ** 0.5
        half = self._scale * _t_quantile(self.num_samples) * error
        return self.value - half, self.value + half

    def replicates(self, counts: Int[np.ndarray, "replicates samples"], widening: float) -> Float[np.ndarray, " replicates"]:
        """The metric on resampled samples."""
        excess = counts[:, self.columns] - 1.0
        moved = np.zeros(len(counts))
        if (spread := float((self.margins**2).sum())) > 0.0:
            moved += 2.0 * (self.linear / (self.num_samples * spread)) ** 0.5 * (excess @ self.margins)
        if (spread := float((self.rest**2).sum())) > 0.0:
            pairs = self.num_samples * (self.num_samples - 1)
            moved += (self.degenerate / (pairs * spread)) ** 0.5 * ((excess @ self.rest) * excess).sum(axis=1)
        return self.value + widening * self._scale * moved


def _components(of_margins: float, of_products: float, num_samples: int, *, bound: float) -> tuple[float, float]:
    """ζ₁ and ζ₂, neither below zero, from the variances of a_i and of ⟨D_i, D_j⟩.

    Var(a_i) about their own mean is c ζ₁ + ζ₂/(N − 1) with c = ((N − 2)/(N − 1))².

    Args:
        of_margins: Variance of a_i.
        of_products: Variance of the inner products.
        num_samples: N.
        bound: What the variance of an inner product does not exceed, for samples too few to say more.
    """
    if num_samples < _FEWEST_TO_SPLIT:
        return 0.0, bound
    share = ((num_samples - 2) / (num_samples - 1)) ** 2
    degenerate = (share * of_products / 2.0 - of_margins) / (share / 2.0 - 1.0 / (num_samples - 1))
    if degenerate <= 0.0:
        return of_margins / share, 0.0
    if (linear := (of_products - degenerate) / 2.0) <= 0.0:
        return 0.0, of_products
    return linear, degenerate


def _margins(products: GradientProducts, num_samples: int) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, "some some"]]:
    between = products.between.cpu().numpy()
    others = max(1, num_samples - 1)
    return (products.with_all.cpu().numpy() - between.diagonal()) / others, between
