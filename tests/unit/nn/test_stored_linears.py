"""The linear layers add their bias, whatever the matrix is stored as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerlens.artifacts.formats import Scheme, integer, integer_low_rank, low_rank
from layerlens.nn.low_rank_linear import LowRankLinear
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.quantised_low_rank_linear import QuantisedLowRankLinear
from layerlens.nn.stored_module import StoredModule
from tests.unit.nn.stored_cases import dense, filled

CASES = [
    (QuantisedLinear, integer(3, 32)),
    (LowRankLinear, low_rank(16, 8, 32)),
    (QuantisedLowRankLinear, integer_low_rank(4, 16, 16, 32)),
]


@pytest.mark.parametrize(("kind", "scheme"), CASES, ids=["codes", "factors", "both"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_layer_computes_what_a_linear_layer_with_the_decoded_matrix_does(
    kind: type[StoredModule], scheme: Scheme, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    bias = nn.Parameter(torch.randn(24, generator=generator)) if has_bias else None
    layer = filled(kind(scheme, 24, 40, bias))  # type: ignore[call-arg]
    matrix = dense(scheme, dict(layer.named_buffers()), 24, 40).float()
    inputs = torch.randn(2, 3, 40, generator=generator)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, matrix, bias), rtol=1e-4, atol=1e-5)
    assert ("bias" in layer.state_dict()) == has_bias
    assert (layer.out_features, layer.in_features) == (24, 40)


@pytest.mark.parametrize(("kind", "scheme"), CASES, ids=["codes", "factors", "both"])
def test_a_printed_layer_names_its_scheme(kind: type[StoredModule], scheme: Scheme) -> None:
    assert scheme.name in repr(kind(scheme, 24, 40))
