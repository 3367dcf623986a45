"""A bottleneck is the explicit formula, starts as nothing, and counts the parameters that a plan counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from layerlens.artifacts.options import trainable_params
from layerlens.nn.bottleneck import Bottleneck
from layerlens.words import Method


def _bottleneck(features: int = 6, size: int = 3, seed: int = 0) -> Bottleneck:
    return Bottleneck(features, size, generator=torch.Generator().manual_seed(seed))


def _randomised(bottleneck: Bottleneck) -> Bottleneck:
    for parameter in bottleneck.parameters():
        nn.init.normal_(parameter)
    return bottleneck


def _by_hand(bottleneck: Bottleneck, hidden: Tensor) -> Tensor:
    """h + U · gelu(D h + d) + u with the error function written out, one vector at a time."""
    rows = []
    for vector in hidden.reshape(-1, hidden.shape[-1]):
        inner = bottleneck.down @ vector + bottleneck.down_bias
        active = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        rows.append(vector + bottleneck.up @ active + bottleneck.up_bias)
    return torch.stack(rows).reshape(hidden.shape)


def test_a_bottleneck_is_a_residual_network_of_two_layers() -> None:
    bottleneck, hidden = _randomised(_bottleneck()), torch.randn(2, 5, 6)
    torch.testing.assert_close(bottleneck(hidden), _by_hand(bottleneck, hidden))


@pytest.mark.parametrize(("features", "size"), [(6, 1), (6, 3), (32, 16)])
def test_it_trains_as_many_parameters_as_a_plan_says(features: int, size: int) -> None:
    count = sum(parameter.numel() for parameter in _bottleneck(features, size).parameters())
    assert count == trainable_params(Method.ADAPTER, size, in_features=99, out_features=features)
    assert count == 2 * features * size + size + features


def test_a_fresh_bottleneck_changes_nothing_and_can_learn() -> None:
    layer, inputs = nn.Linear(4, 6), torch.randn(2, 5, 4)
    before, bottleneck = layer(inputs), _bottleneck()
    take_off = bottleneck.place_after_(layer)
    output = layer(inputs)
    assert torch.equal(output, before)
    output.square().sum().backward()
    assert bottleneck.up.grad is not None
    assert bottleneck.up.grad.abs().min() > 0
    take_off()


def test_it_stands_behind_a_layer_until_it_is_taken_off() -> None:
    layer, inputs = nn.Linear(4, 6), torch.randn(2, 5, 4)
    before, names = layer(inputs), set(dict(layer.named_parameters()))
    bottleneck = _randomised(_bottleneck())
    take_off = bottleneck.place_after_(layer)
    torch.testing.assert_close(layer(inputs), _by_hand(bottleneck, before))
    # A copy has its own bottleneck and keeps no tie to the first.
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        bottleneck.up_bias.add_(1.0)
    torch.testing.assert_close(layer(inputs), copied(inputs) + 1.0)
    take_off()
    assert torch.equal(layer(inputs), before)
    assert set(dict(layer.named_parameters())) == names


def test_a_smaller_start_is_part_of_a_larger_one_and_seeded() -> None:
    small, large = _bottleneck(size=2), _bottleneck(size=5)
    assert torch.equal(large.down[:2], small.down)
    assert not torch.equal(_bottleneck(size=2, seed=1).down, small.down)
    assert small.down.abs().max() <= 6**-0.5


def test_it_keeps_the_type_of_a_half_precision_model_and_adds_in_its_own() -> None:
    bottleneck, hidden = _randomised(_bottleneck()), torch.randn(2, 5, 6).to(torch.bfloat16)
    output = bottleneck(hidden)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), _by_hand(bottleneck, hidden.float()), rtol=0.02, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bottleneck(hidden.float()).dtype == torch.float32
