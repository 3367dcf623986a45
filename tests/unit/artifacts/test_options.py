"""Counted parameters equal those of real modules."""

from __future__ import annotations

import pytest
from torch import nn

from layerlens.artifacts.options import trainable_params
from layerlens.words import Method


@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(5, 7, 1), (64, 32, 4), (384, 1536, 38)])
def test_a_lora_has_the_parameters_of_its_two_factors(inputs: int, outputs: int, rank: int) -> None:
    factors = nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False))
    counted = trainable_params(Method.LORA, rank, in_features=inputs, out_features=outputs)
    assert counted == sum(parameter.numel() for parameter in factors.parameters())


@pytest.mark.parametrize(("width", "bottleneck"), [(8, 1), (384, 16)])
def test_an_adapter_has_two_projections_with_biases(width: int, bottleneck: int) -> None:
    module = nn.Sequential(nn.Linear(width, bottleneck), nn.GELU(), nn.Linear(bottleneck, width))
    counted = trainable_params(Method.ADAPTER, bottleneck, in_features=3 * width, out_features=width)
    assert counted == sum(parameter.numel() for parameter in module.parameters())


def test_a_prefix_has_a_key_and_a_value_for_each_token() -> None:
    # 2 key/value heads of size 8 under grouped attention: the width of one key, not of the hidden state.
    assert trainable_params(Method.PREFIX, 5, in_features=64, out_features=64, kv_features=16) == 2 * 5 * 16


def test_none_costs_nothing() -> None:
    assert trainable_params(Method.NONE, 0, in_features=9, out_features=9) == 0
