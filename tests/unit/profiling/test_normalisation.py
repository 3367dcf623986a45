"""Normalisation happens once: utilities neither collapse nor explode."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerlens.profiling.normalisation import coefficient_of_variation, normalise, spread_warnings, utility

_RAW = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(_RAW, st.sampled_from(["gradient_energy", "fisher", "proxy_eval"]))
def test_values_lie_in_0_to_1_and_keep_their_order(raw: dict[str, float], metric: str) -> None:
    normalised = normalise(raw, metric)
    assert all(0.0 <= value <= 1.0 for value in normalised.values())
    ordered = sorted(raw, key=raw.__getitem__)
    assert all(normalised[low] <= normalised[high] for low, high in pairwise(ordered))
    if max(raw.values()) > 0:
        assert max(normalised.values()) == 1.0


@given(_RAW, st.floats(1e-3, 1e3))
def test_the_scale_of_a_metric_does_not_matter(raw: dict[str, float], factor: float) -> None:
    one, other = normalise(raw, "fisher"), normalise({layer: factor * value for layer, value in raw.items()}, "fisher")
    assert all(math.isclose(one[layer], other[layer], rel_tol=1e-9, abs_tol=1e-12) for layer in raw)


def test_normalising_twice_changes_a_loss_no_more() -> None:
    once = normalise({"a": 4.0, "b": 1.0}, "proxy_eval")
    assert once == {"a": 1.0, "b": 0.25}
    assert normalise(once, "proxy_eval") == once


def test_squared_gradients_are_rooted_and_losses_are_not() -> None:
    assert normalise({"a": 4.0, "b": 1.0}, "gradient_energy") == {"a": 1.0, "b": 0.5}
    assert normalise({"a": 4.0, "b": 1.0}, "proxy_eval") == {"a": 1.0, "b": 0.25}


def test_equal_layers_are_all_one_and_layers_without_signal_all_zero() -> None:
    assert normalise({"a": 3.0, "b": 3.0}, "fisher") == {"a": 1.0, "b": 1.0}
    assert normalise({"a": -3.0, "b": 0.0}, "gradient_energy") == {"a": 0.0, "b": 0.0}


def test_utility_is_the_weighted_mean_over_the_metrics_that_have_a_weight() -> None:
    normalised = {"gradient_energy": 1.0, "fisher": 0.5, "proxy_eval": 0.0}
    assert utility(normalised, {"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}) == pytest.approx(0.6)
    assert utility(normalised, {"gradient_energy": 0.4, "fisher": 0.4}) == pytest.approx(0.75)


def test_the_coefficient_of_variation_is_spread_over_mean() -> None:
    assert coefficient_of_variation([1.0, 3.0]) == pytest.approx(0.5)
    assert coefficient_of_variation([2.0, 2.0]) == 0.0
    assert coefficient_of_variation([0.0, 0.0]) == 0.0


def _metrics(energy: float, noise: float) -> dict[str, float]:
    return {"gradient_energy": energy, "gradient_norm_squared": energy + noise}


def test_utilities_that_cannot_tell_layers_apart_are_a_warning() -> None:
    signal = [_metrics(5.0, 1.0)] * 2
    assert spread_warnings([0.2, 0.9], signal, 512) == []
    (warning,) = spread_warnings([0.80, 0.82], signal, 512)
    assert "coefficient of variation is 0.012" in warning


def test_energy_within_noise_is_a_warning() -> None:
    (warning,) = spread_warnings([0.2, 0.9], [_metrics(0.1, 5.0), _metrics(-0.2, 5.0)], 512)
    assert "512 samples is within noise" in warning
