"""Gain curves of a whole model against whitening and SVD of brute-force statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.curves.concave_envelope import concave_envelope
from layerlens.profiling.gains import gain_curves
from layerlens.profiling.spaces import Space
from layerlens.profiling.statistics import Statistics
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Vectors, layer_specs, open_case, vector_examples, vector_statistics

DAMPING, RANKS = 0.1, 5


def _root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram.double())
    return vectors @ torch.diag((values + DAMPING * values.mean()).rsqrt()) @ vectors.t()


def _oracle(statistics: Statistics, layer: str) -> np.ndarray:
    sums = statistics.layers[layer]
    halves = [
        _root(sums.output_gram) @ half.double() @ _root(sums.shared.input_gram) for half in statistics.mean_gradients(layer)
    ]
    return _cross_fitted(halves, statistics.num_terms)


def _cross_fitted(halves: list[Tensor], num_terms: float) -> np.ndarray:
    curves = []
    for fitted, scored in (halves, halves[::-1]):
        u, sigma, vt = torch.linalg.svd(fitted, full_matrices=False)
        curves.append(0.5 * torch.cumsum(sigma * torch.diagonal(u.t() @ scored @ vt.t()), dim=0).numpy()[:RANKS])
    return concave_envelope((curves[0] + curves[1]) / 2 / num_terms)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("bert", TaskKind.CLASSIFICATION), ("gpt2", TaskKind.CAUSAL_LM), ("llama", TaskKind.CAUSAL_LM)],
    ids=lambda value: str(value),
)
def test_curves_are_those_of_explicit_roots_and_svds(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind, num_samples=24)
    statistics = case.statistics()
    curves = gain_curves(statistics, case.layout.layers, damping=DAMPING, max_rank=RANKS)
    assert any(curve[-1] > 0 for curve in curves.values())
    for spec in case.layout.layers:
        expected = _oracle(statistics, spec.layer)
        scale = max(expected[-1], max(curve[-1] for curve in curves.values()) * 1e-2)
        np.testing.assert_allclose(curves[spec.layer], expected, rtol=5e-3, atol=5e-3 * scale)


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize(("damping", "is_cross_fitted"), [(DAMPING, False), (None, True), (None, False)])
def test_without_whitening_or_cross_fitting_curves_are_those_of_plain_svds(
    tmp_path: Path, space: Space, damping: float | None, is_cross_fitted: bool
) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION, num_samples=24)
    statistics = case.statistics(space=space)
    curves = gain_curves(statistics, case.layout.layers, damping=damping, max_rank=RANKS, is_cross_fitted=is_cross_fitted)
    weights = np.array(statistics.half_sizes) / sum(statistics.half_sizes)
    largest = max(curve[-1] for curve in curves.values())
    assert largest > 0
    for spec in case.layout.layers:
        sums = statistics.layers[spec.layer]
        halves = [half.double() for half in statistics.mean_gradients(spec.layer)]
        if damping is not None:
            halves = [_root(sums.output_gram) @ half @ _root(sums.shared.input_gram) for half in halves]
        if not is_cross_fitted:
            sigma = torch.linalg.svdvals(weights[0] * halves[0] + weights[1] * halves[1])
            expected = 0.5 * torch.cumsum(sigma.square(), dim=0).numpy()[:RANKS] / statistics.num_terms
        else:
            expected = _cross_fitted(halves, statistics.num_terms)
        scale = max(expected[-1], largest * 1e-2)
        np.testing.assert_allclose(curves[spec.layer], expected, rtol=5e-3, atol=5e-3 * scale)


def test_a_language_model_s_gain_is_per_token(tmp_path: Path) -> None:
    case = open_case(tmp_path, "gpt2", TaskKind.CAUSAL_LM)
    statistics = case.statistics()
    assert statistics.num_terms == pytest.approx(np.mean([len(example["labels"]) - 1 for example in case.examples]))


def test_a_layer_without_grams_gains_nothing() -> None:
    model = Vectors()
    statistics = vector_statistics(model, vector_examples(4), gram_tokens=0)
    curves = gain_curves(statistics, layer_specs(model), damping=DAMPING, max_rank=3)
    assert {name: curve.tolist() for name, curve in curves.items()} == {"lower": [0.0] * 3, "upper": [0.0] * 3}
