"""The choice of space, and what statistics and curves are said to take against what they do take."""

from __future__ import annotations

import pytest
import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.profiling.calibration import calibration_batches
from layerlens.profiling.layer_statistics import LayerStatistics
from layerlens.profiling.spaces import (
    Space,
    Tokens,
    choose_space,
    curve_bytes,
    expected_tokens,
    feature_cost,
    statistics_bytes,
    token_cost,
)
from layerlens.profiling.statistics_spaces import empty_statistics
from layerlens.words import Role
from tests.unit.allocations import peak_bytes


def _spec(in_features: int, out_features: int, layer: str = "one", group: str = "one") -> LayerSpec:
    return LayerSpec(layer=layer, block=0, role=Role.OTHER, in_features=in_features, out_features=out_features, input_group=group)


def test_few_tokens_go_to_token_space_and_many_to_feature_space() -> None:
    mlp = [_spec(4096, 11008)]
    assert choose_space(mlp, Tokens(1024, 1024)) is Space.TOKENS
    assert choose_space(mlp, Tokens(32_768, 4096)) is Space.FEATURES
    small = [_spec(384, 384)]
    assert choose_space(small, Tokens(128, 128)) is Space.TOKENS
    assert choose_space(small, Tokens(1024, 1024)) is Space.FEATURES


def test_without_grams_only_the_norm_of_the_mean_is_wanted() -> None:
    square = [_spec(1000, 1000)]
    # ‖G‖² from the tokens takes T² (in + out) / 2, from the features T in out.
    assert token_cost(square, Tokens(400, 0)) == 400**2 * 1000
    assert feature_cost(square, Tokens(400, 0)) == 400 * 1000**2
    assert choose_space(square, Tokens(900, 0)) is Space.TOKENS
    assert choose_space(square, Tokens(1100, 0)) is Space.FEATURES


def test_layers_that_share_an_input_share_its_cost() -> None:
    three = [_spec(512, 512, name) for name in ("q", "k", "v")]
    for cost in (token_cost, feature_cost):
        assert cost(three, Tokens(300, 300)) < 3 * cost(three[:1], Tokens(300, 300))


def test_expected_tokens_count_padding_and_gram_rows() -> None:
    batches = calibration_batches([3, 5, 9, 9], batch_size=2, gram_tokens=10_000, seed=0)
    assert expected_tokens(batches) == Tokens(2 * 5 + 2 * 9, 2 * 5 + 2 * 9, 4)
    batches = calibration_batches([3, 5, 9, 9], batch_size=2, gram_tokens=12, seed=0)
    assert expected_tokens(batches).num_gram_rows == 12
    batches = calibration_batches([3, 5, 9, 9], batch_size=2, gram_tokens=0, seed=0)
    assert expected_tokens(batches) == Tokens(28, 0, 4)


def _fed(spec: LayerSpec, space: Space, num_samples: int, num_tokens: int, gram_rows: int) -> tuple[LayerStatistics, Tokens]:
    tokens = Tokens(num_samples * num_tokens, num_samples * min(num_tokens, gram_rows), num_samples)
    found = empty_statistics(spec, space, tokens, torch.device("cpu"))
    found.share(found.shared)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, num_samples, 2):
        inputs = torch.randn(2, num_tokens, spec.in_features, generator=generator)
        gradient = torch.randn(2, num_tokens, spec.out_features, generator=generator)
        mixer = TokenMixer(gram_rows, start, None)
        found.shared.add(inputs, mixer, start)
        found.add(inputs, gradient, 1, "empirical", mixer)
        found.shared.end_batch()
    return found, tokens


SHAPES = [
    (Space.TOKENS, 700, 600, 16, 32, 100),
    (Space.TOKENS, 500, 900, 16, 32, 8),
    (Space.FEATURES, 700, 600, 16, 64, 100),
    (Space.FEATURES, 1600, 500, 16, 64, 100),
    (Space.FEATURES, 500, 1600, 16, 64, 100),
    (Space.FEATURES, 1800, 500, 16, 64, 16),
]


@pytest.mark.parametrize(("space", "inputs", "outputs", "samples", "tokens", "gram_rows"), SHAPES)
def test_bytes_are_what_the_allocator_sees(
    space: Space, inputs: int, outputs: int, samples: int, tokens: int, gram_rows: int
) -> None:
    spec = _spec(inputs, outputs)
    kept: list[tuple[LayerStatistics, Tokens]] = []
    grown = peak_bytes(lambda: kept.append(_fed(spec, space, samples, tokens, gram_rows)))
    found, expected = kept[0]
    batch = 4 * 2 * tokens * (inputs + outputs)
    assert (
        0.9
        < grown / statistics_bytes([spec], expected, space=space)
        < 1.15 + 3 * batch / statistics_bytes([spec], expected, space=space)
    )

    def measure() -> None:
        found.mean_gradient_energy(samples)
        found.gain_curve((samples // 2, samples // 2), damping=0.1, max_rank=32, num_terms=1.0, releases=True)

    assert 0.6 < peak_bytes(measure) / curve_bytes([spec], expected, space=space) < 1.15


def test_no_layer_of_the_7b_shape_needs_memory_of_its_features_squared_for_a_thousand_tokens() -> None:
    tokens = Tokens(1024, 1024, 8)
    mlp = [_spec(4096, 11008, "gate"), _spec(4096, 11008, "up")]
    down = [_spec(11008, 4096, "down", "down")]
    for group in (mlp, down):
        assert choose_space(group, tokens) is Space.TOKENS
        assert statistics_bytes(group, tokens) == 4 * 1024 * (group[0].in_features + sum(spec.out_features for spec in group))
        assert curve_bytes(group, tokens) < 60 << 20
    assert statistics_bytes(mlp, tokens, element_bytes=2) * 2 == statistics_bytes(mlp, tokens)
