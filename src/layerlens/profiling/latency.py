"""Milliseconds that an unmerged rank-r update adds to one token: intercept + slope · r, measured for each shape of layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.artifacts.profile import LatencyModel
from layerlens.models.devices import seconds_now

_RANKS = (1, 64)
_ROUNDS = 7
_CALLS = 20


def latency_models(layers: Sequence[LayerSpec], device: torch.device) -> dict[str, LatencyModel]:
    """Time y + (x down) up at one token for a small and a large rank; layers of one shape share a measurement."""
    shapes = dict.fromkeys((spec.in_features, spec.out_features) for spec in layers)
    measured = {shape: _fit(*shape, device) for shape in shapes}
    return {spec.layer: measured[spec.in_features, spec.out_features] for spec in layers}


def _fit(in_features: int, out_features: int, device: torch.device) -> LatencyModel:
    low, high = (_added_ms(in_features, out_features, rank, device) for rank in _RANKS)
    slope = max(0.0, (high - low) / (_RANKS[1] - _RANKS[0]))
    return LatencyModel(intercept_ms=max(0.0, low - slope * _RANKS[0]), slope_ms=slope)


def _added_ms(in_features: int, out_features: int, rank: int, device: torch.device) -> float:
    """Median over rounds of the milliseconds of one update at one token."""
    inputs, output = torch.zeros(1, in_features, device=device), torch.zeros(1, out_features, device=device)
    down, up = torch.zeros(in_features, rank, device=device), torch.zeros(rank, out_features, device=device)
    rounds = []
    with torch.no_grad():
        for _ in range(1 + _ROUNDS):
            start = seconds_now(device)
            for _ in range(_CALLS):
                torch.add(output, (inputs @ down) @ up)
            rounds.append((seconds_now(device) - start) / _CALLS * 1e3)
    return float(np.median(rounds[1:]))
