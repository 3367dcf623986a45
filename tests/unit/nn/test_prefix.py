"""A prefix is keys and values before those of the tokens, and no query is barred from it."""

from __future__ import annotations

import pytest
import torch

from layerlens.artifacts.options import trainable_params
from layerlens.errors import UnsupportedModelError
from layerlens.nn.prefix import Prefix, with_prefix_columns
from layerlens.words import Method


def _prefix(features: int = 6, tokens: int = 3, seed: int = 0) -> Prefix:
    return Prefix(features, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("features", "tokens"), [(6, 1), (8, 5)])
def test_it_trains_as_many_parameters_as_a_plan_says(features: int, tokens: int) -> None:
    count = sum(parameter.numel() for parameter in _prefix(features, tokens).parameters())
    assert count == trainable_params(Method.PREFIX, tokens, in_features=99, out_features=99, kv_features=features)


def test_keys_and_values_of_every_head_come_before_the_tokens() -> None:
    prefix = _prefix(features=6, tokens=3)
    with torch.no_grad():
        prefix.keys.copy_(torch.arange(18.0).view(3, 6))
        prefix.values.copy_(-torch.arange(18.0).view(3, 6))
    key, value = torch.randn(2, 2, 4, 3), torch.randn(2, 2, 4, 3)
    keys, values = prefix(key, value)
    assert torch.equal(keys[:, :, 3:], key)
    assert torch.equal(values[:, :, 3:], value)
    for sample in range(2):
        # Head 1 of token 2 holds features 3 … 5 of row 2: 12 + 3, ….
        assert keys[sample, 1, 2].tolist() == [15.0, 16.0, 17.0]
        assert values[sample, 0, 1].tolist() == [-6.0, -7.0, -8.0]


def test_a_prefix_of_another_width_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="2 key/value heads of size 4 got a prefix of width 6"):
        _prefix(features=6)(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))


def test_a_smaller_start_is_part_of_a_larger_one_and_adds_nothing() -> None:
    small, large = _prefix(tokens=2), _prefix(tokens=5)
    assert torch.equal(large.keys[:2], small.keys)
    assert not torch.equal(_prefix(tokens=2, seed=1).keys, small.keys)
    assert not torch.equal(small.keys[0], small.keys[1])
    assert large.values.count_nonzero() == 0


def test_no_query_is_barred_from_the_prefix_by_any_mask() -> None:
    device = torch.device("cpu")
    allowed = torch.tensor([[[[True, False, False], [True, True, False]]]])
    wider = with_prefix_columns(allowed, 2, 2, 3, is_causal=True, device=device)
    assert wider is not None
    assert wider.dtype == torch.bool
    assert wider[0, 0].tolist() == [[True, True, True, False, False], [True, True, True, True, False]]
    added = torch.tensor([[[[0.0, -1e9]]]])
    wider = with_prefix_columns(added, 3, 1, 2, is_causal=False, device=device)
    assert wider is not None
    assert torch.equal(wider, torch.tensor([[[[0.0, 0.0, 0.0, 0.0, -1e9]]]]))


def test_a_causal_mask_that_was_left_out_is_made_only_where_it_bars_something() -> None:
    device = torch.device("cpu")
    made = with_prefix_columns(None, 1, 2, 3, is_causal=True, device=device)
    assert made is not None
    assert made[0, 0].tolist() == [[True, True, False, False], [True, True, True, False]]
    assert with_prefix_columns(None, 1, 1, 3, is_causal=True, device=device) is None
    assert with_prefix_columns(None, 1, 2, 2, is_causal=False, device=device) is None
