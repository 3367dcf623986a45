"""Feature space or token space: where the statistics of a layer are kept.

    feature space   G [out, in], A [in, in] (or its rows), B [out, out]     does not grow with the tokens
    token space     rows x_t and g_t, and their T × T Grams                 does not grow with features²

Both give the same numbers to rounding. The choice is by time, for all layers that read the same input at once, so that these can
share its Gram; memory follows, because token space is the faster one only while its rows are fewer than about the features, and
its Grams smaller than theirs. Measured on one x86 core, the times are equal at 450, 960, 1,600 and 2,650 tokens for layers of
384 × 384, 768 × 768, 3072 × 768 and 2048 × 2048, where the costs below put it at 480, 890, 1,530 and 2,420.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from layerlens.artifacts.layers import LayerSpec
from layerlens.linalg.gram import gram_bytes, keeps_rows
from layerlens.linalg.kronecker_sketch import SKETCH_SIZE
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.streaming.settings import input_groups

#: An eigendecomposition of an n × n matrix takes the time of that many × n³ multiply-adds of a float32 product (measured on one
#: x86 core: 0.09–0.12 ns × n³ in float32 and 0.21–0.23 in float64, where a product takes 0.021 and 0.040 ns).
_EIGH_SINGLE, _EIGH_DOUBLE = 5.0, 10.0
_DOUBLE = 2.0


#: Samples of the pass that are sketched in feature space, about; what they say of the spread of all is right to a tenth.
SKETCHED_SAMPLES = 128


class Space(StrEnum):
    """Where the statistics of a layer are kept."""

    FEATURES = "features"
    TOKENS = "tokens"


@dataclass(frozen=True)
class Tokens:
    """What the calibration will bring.

    Attributes:
        num_rows: Tokens of all samples, padding included.
        num_gram_rows: Rows of the Grams; 0 without Grams.
        num_samples: Samples; 0 if unknown.
    """

    num_rows: int
    num_gram_rows: int
    num_samples: int = 0


def expected_tokens(batches: Sequence[CalibrationBatch]) -> Tokens:
    """What these batches will bring to a layer that sees every token."""
    return Tokens(
        num_rows=sum(len(batch.samples) * batch.num_tokens for batch in batches),
        num_gram_rows=sum(len(batch.samples) * min(batch.gram_rows, batch.num_tokens) for batch in batches),
        num_samples=sum(len(batch.samples) for batch in batches),
    )


def choose_space(layers: Sequence[LayerSpec], tokens: Tokens) -> Space:
    """The cheaper space for layers that read the same input."""
    in_tokens, in_features = token_cost(layers, tokens), feature_cost(layers, tokens)
    return Space.TOKENS if in_tokens < in_features else Space.FEATURES


def feature_cost(layers: Sequence[LayerSpec], tokens: Tokens) -> float:
    """Multiply-adds in feature space: sums, factors, whitening and decompositions."""
    inputs = layers[0].in_features
    cost = _factor_cost(inputs, tokens.num_gram_rows) if tokens.num_gram_rows else 0.0
    for spec in layers:
        outputs = spec.out_features
        cost += tokens.num_rows * inputs * outputs
        if tokens.num_gram_rows:
            small, large = sorted((inputs, outputs))
            cost += _factor_cost(outputs, tokens.num_gram_rows)
            cost += 2 * outputs * _whitening_cost(inputs, tokens.num_gram_rows)
            cost += 2 * inputs * _whitening_cost(outputs, tokens.num_gram_rows)
            cost += 3 * small**2 * large + 2 * _EIGH_SINGLE * small**3
    return cost


def token_cost(layers: Sequence[LayerSpec], tokens: Tokens) -> float:
    """The same in token space, where all is in float64; without Grams only the token Grams are made, in float32."""
    rows = tokens.num_rows
    features = layers[0].in_features + sum(spec.out_features for spec in layers)
    if not tokens.num_gram_rows:
        return rows**2 * features / 2
    # Where a Gram has rows of its own they are beside the tokens.
    stacked = rows + (tokens.num_gram_rows if tokens.num_gram_rows < rows else 0)
    per_gram = stacked**3
    half = rows / 2
    per_layer = 3 * half**3 + _EIGH_DOUBLE / _DOUBLE * half**3 + 3 * half**3
    return _DOUBLE * (stacked**2 * features / 2 + per_gram * (1 + len(layers)) + 2 * per_layer * len(layers))


def statistics_bytes(layers: Sequence[LayerSpec], tokens: Tokens, *, element_bytes: int = 4, space: Space | None = None) -> int:
    """Bytes that the statistics of layers that are measured together grow to.

    Args:
        layers: Any number of them.
        tokens: What the calibration brings.
        element_bytes: Of an activation, in whose type token space keeps its rows.
        space: Where they are kept; None for the cheaper one.
    """
    return sum(
        _row_bytes(group, tokens, element_bytes)
        if (space or choose_space(group, tokens)) is Space.TOKENS
        else _sum_bytes(group, tokens)
        for group in input_groups(layers)
    )


def curve_bytes(layers: Sequence[LayerSpec], tokens: Tokens, *, space: Space | None = None) -> int:
    """Most bytes that metrics and curves take beside the statistics, which are released layer by layer."""
    return max(
        _token_work(group, tokens) if (space or choose_space(group, tokens)) is Space.TOKENS else _feature_work(group, tokens)
        for group in input_groups(layers)
    )


def _mixed_rows(tokens: Tokens) -> int:
    """Rows of a Gram that are kept beside the tokens."""
    return tokens.num_gram_rows if tokens.num_gram_rows < tokens.num_rows else 0


def _row_bytes(layers: Sequence[LayerSpec], tokens: Tokens, element_bytes: int) -> int:
    features = layers[0].in_features + sum(spec.out_features for spec in layers)
    return features * (element_bytes * tokens.num_rows + 4 * _mixed_rows(tokens))


def _sum_bytes(layers: Sequence[LayerSpec], tokens: Tokens) -> int:
    sketched = SKETCH_SIZE**2 * min(tokens.num_samples, 2 * SKETCHED_SAMPLES)
    sums = [8 * spec.weight_params + gram_bytes(spec.out_features, tokens.num_gram_rows) + 4 * sketched for spec in layers]
    return gram_bytes(layers[0].in_features, tokens.num_gram_rows) + sum(sums)


def _token_work(layers: Sequence[LayerSpec], tokens: Tokens) -> int:
    rows, stacked = tokens.num_rows, tokens.num_rows + _mixed_rows(tokens)
    # Plain Grams of the input and of every layer; the whitened ones, and the factors and vectors of a half, in float64.
    plain = (8 if _mixed_rows(tokens) else 4) * stacked**2
    copied = 4 * stacked * max(layers[0].in_features, *(spec.out_features for spec in layers)) if _mixed_rows(tokens) else 0
    return plain * (1 + len(layers)) + 8 * 4 * rows**2 + copied


def _feature_work(layers: Sequence[LayerSpec], tokens: Tokens) -> int:
    if not tokens.num_gram_rows:
        return 0
    shared = _factor_bytes(layers[0].in_features, tokens.num_gram_rows)
    # The factor of B is let go of before anything is decomposed on the smaller side.
    own = max(
        max(_factor_bytes(spec.out_features, tokens.num_gram_rows), 4 * 5 * min(spec.in_features, spec.out_features) ** 2)
        for spec in layers
    )
    return shared + own


def _factor_bytes(features: int, num_rows: int) -> int:
    # Directions beside the rows, and their decomposition in float64; or the full Gram, factored in place.
    return 4 * features * num_rows + 8 * 4 * num_rows**2 if keeps_rows(features, num_rows) else 4 * features**2


def _factor_cost(features: int, num_rows: int) -> float:
    if keeps_rows(features, num_rows):
        return _DOUBLE * num_rows**2 * features / 2 + _EIGH_DOUBLE * num_rows**3
    return num_rows * features**2 * 5 / 8 + features**3 / 3


def _whitening_cost(features: int, num_rows: int) -> float:
    """Of one row."""
    return 2 * features * num_rows + num_rows**2 if keeps_rows(features, num_rows) else features**2 / 2
