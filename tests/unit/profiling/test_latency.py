"""Latency models are shared by shape, and a line through what was measured."""

from __future__ import annotations

import pytest
import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.profiling import latency
from layerlens.profiling.latency import latency_models
from layerlens.words import Role


def _spec(name: str, in_features: int, out_features: int) -> LayerSpec:
    return LayerSpec(layer=name, block=0, role=Role.OTHER, in_features=in_features, out_features=out_features, input_group=name)


def test_the_line_goes_through_both_measured_ranks_and_shapes_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def added(in_features: int, out_features: int, rank: int, device: torch.device) -> float:
        calls.append((in_features, out_features, rank))
        return 0.5 + 0.01 * rank * in_features

    monkeypatch.setattr(latency, "_added_ms", added)
    models = latency_models([_spec("a", 4, 8), _spec("b", 8, 4), _spec("c", 4, 8)], torch.device("cpu"))
    assert len(calls) == 4
    assert models["a"] == models["c"]
    assert models["a"].intercept_ms == pytest.approx(0.5)
    assert models["a"].slope_ms == pytest.approx(0.04)
    assert models["b"].slope_ms == pytest.approx(0.08)


def test_a_measurement_that_falls_with_the_rank_has_no_slope_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_added_ms", lambda _, __, rank, ___: 1.0 / rank)
    model = latency_models([_spec("a", 4, 8)], torch.device("cpu"))["a"]
    assert model.slope_ms == 0.0
    assert model.intercept_ms == 1.0


def test_a_real_measurement_takes_time() -> None:
    model = latency_models([_spec("a", 16, 16)], torch.device("cpu"))["a"]
    assert model.intercept_ms + model.slope_ms > 0
