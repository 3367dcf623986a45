"""The joint gain from a kernel over samples, against the same formula with explicit gradients."""

from __future__ import annotations

import numpy as np
import pytest
from predicted_gain_starts import Starts, kernel_gain


def _explicit(gradients: np.ndarray, damping: float) -> float:
    """½ ḡ₂ᵀ (F₁ + λ)⁻¹ ḡ₁ in the space of parameters, both swaps averaged."""
    halves = (gradients[::2], gradients[1::2])
    total = 0.0
    for one, other in (halves, halves[::-1]):
        fisher = one.T @ one / len(one)
        ridge = damping * np.trace(fisher) / len(one)
        total += 0.25 * other.mean(0) @ np.linalg.solve(fisher + ridge * np.eye(one.shape[1]), one.mean(0))
    return float(total)


@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_the_kernel_gives_what_explicit_gradients_give(damping: float) -> None:
    gradients = np.random.default_rng(0).normal(0.3, 1.0, (20, 7))
    assert kernel_gain(gradients @ gradients.T, damping=damping) == pytest.approx(_explicit(gradients, damping), rel=1e-9)


def test_a_layer_that_repeats_another_adds_nothing() -> None:
    gradients = np.random.default_rng(1).normal(0.2, 1.0, (24, 9))
    kernel = gradients @ gradients.T
    assert kernel_gain(2.0 * kernel, damping=0.5) == pytest.approx(kernel_gain(kernel, damping=0.5))


def test_noise_gains_nothing_on_average() -> None:
    random = np.random.default_rng(2)
    values = []
    for _ in range(300):
        gradients = random.normal(size=(24, 9))
        values.append(kernel_gain(gradients @ gradients.T, damping=1.0))
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5


def test_a_plans_kernel_is_the_sum_of_its_layers_at_their_ranks() -> None:
    random = np.random.default_rng(3)
    sketches = {name: random.normal(size=(6, 4, 5)).astype(np.float32) for name in "ab"}
    halves = {name: (random.normal(size=(4, 5)), random.normal(size=(4, 5))) for name in "ab"}
    starts = Starts(sketches, halves)
    expected = np.zeros((6, 6))
    for name, rank in (("a", 2), ("b", 5)):
        for i in range(6):
            for j in range(6):
                expected[i, j] += (sketches[name][i, :, :rank] * sketches[name][j, :, :rank]).sum()
    np.testing.assert_allclose(starts.kernel({"a": 2, "b": 5}), expected, rtol=1e-5)


def test_halves_that_agree_have_cosine_one_and_a_first_step_of_their_absolute_sum() -> None:
    gradient = np.array([[1.0, -2.0], [0.5, 3.0]])
    starts = Starts({"a": np.zeros((2, 1, 2))}, {"a": (gradient, gradient)})
    assert starts.cosine({"a": 2}) == pytest.approx(1.0)
    assert starts.first_step({"a": 2}) == pytest.approx(6.5)
    assert starts.first_step({"a": 1}) == pytest.approx(1.5)
    assert starts.energy({"a": 1}) == pytest.approx(1.25)
