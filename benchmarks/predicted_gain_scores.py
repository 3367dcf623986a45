"""Every score of a layer that a profile holds, and the controls that any of them must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from predicted_gain_starts import Starts, kernel_gain
from predicted_gain_subjects import TRUE_LABELS, Measured

from layerlens.artifacts.profile import Profile


def layer_scores(
    measured: Measured,
    variants: Mapping[str, tuple[Profile, Mapping[str, Any]]],
    starts: Starts,
    probes: Mapping[str, list[float]],
    *,
    rank: int,
    seed: int = 0,
) -> dict[str, list[float]]:
    """One list for each score, in the profile's order of layers; higher means more gain is expected.

    Args:
        measured: The default profile.
        variants: Profiles measured otherwise, of which the gain is taken.
        starts: Gradients at the start of a LoRA.
        probes: Drops of loss that short runs measured, of each layer alone or of all at once, by name.
        rank: Of the adapters whose gain is predicted.
        seed: Of the random score.
    """
    layers, arrays = measured.profile.layers, measured.arrays
    names = [layer.layer for layer in layers]
    spectra = {name: np.asarray(arrays[f"spectrum/{name}"], dtype=np.float64) for name in names}
    size = {layer.layer: layer.in_features * layer.out_features for layer in layers}
    scores: dict[str, list[float]] = {
        f"whitened gain, rank {rank}": [gain_at(arrays, name, rank) for name in names],
        "whitened gain, longest": [gain_at(arrays, name, None) for name in names],
        "gradient energy": [layer.metrics["gradient_energy"] for layer in layers],
        "raw gradient energy": [layer.metrics["gradient_norm_squared"] for layer in layers],
        "Fisher": [layer.metrics["fisher"] for layer in layers],
        "energy ÷ Fisher": [layer.metrics["gradient_energy"] / max(layer.metrics["fisher"], 1e-30) for layer in layers],
        "proxy": [layer.metrics.get("proxy_eval", 0.0) for layer in layers],
        "utility": [layer.utility for layer in layers],
        "effective rank": [effective_rank(spectra[name]) for name in names],
        "nuclear norm": [float(spectra[name].sum()) for name in names],
        "start: Adam's first step": [starts.first_step({name: rank}) for name in names],
        "start: energy": [starts.energy({name: rank}) for name in names],
        "start: sample kernel": [kernel_gain(starts.kernel({name: rank}), damping=1.0) for name in names],
    }
    for label, (_, own) in variants.items():
        scores[f"whitened gain, {label}"] = [gain_at(own, name, rank) for name in names]
    scores |= {name: list(values) for name, values in probes.items()}
    gain = scores[f"whitened gain, rank {rank}"]
    scores["gain × Adam's first step"] = geometric([gain, scores["start: Adam's first step"]])
    scores["gain × utility"] = geometric([gain, scores["utility"]])
    scores["gain × proxy"] = geometric([gain, scores["proxy"]])
    scores |= {f"gain × {name}": geometric([gain, values]) for name, values in probes.items()}
    parameters = [float(size[name]) for name in names]
    scores["gain × parameters"] = geometric([gain, parameters])
    if (sampled := scores.get(f"whitened gain, {TRUE_LABELS}")) is not None:
        scores["gain at true Fisher labels × parameters"] = geometric([sampled, parameters])
    scores["parameters of the weight"] = parameters
    scores["parameters of the adapter"] = [float(layer.in_features + layer.out_features) for layer in layers]
    scores["depth"] = [float(layer.block or 0) for layer in layers]
    scores["random"] = np.random.default_rng(seed).random(len(layers)).tolist()
    return scores


def gain_at(arrays: Mapping[str, Any], layer: str, rank: int | None) -> float:
    """Cross-fitted gain of a layer at a rank, nats; at the curve's end for none or a longer rank."""
    curve = np.asarray(arrays[f"gain/{layer}"], dtype=np.float64)
    return float(curve[min(rank or len(curve), len(curve)) - 1])


def effective_rank(values: np.ndarray) -> float:
    """Exponential of the entropy of the singular values as shares of their sum (Roy, Vetterli, 2007)."""
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def geometric(scores: list[list[float]]) -> list[float]:
    """Geometric mean of scores clipped at zero, each over its largest: what several agree on."""
    total = np.ones(len(scores[0]))
    for score in scores:
        own = np.clip(np.asarray(score, dtype=np.float64), 0.0, None)
        total *= own / max(float(own.max()), 1e-30)
    return (total ** (1 / len(scores))).tolist()
