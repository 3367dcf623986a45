"""Statistics over no sample yet, in either space."""

from __future__ import annotations

import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.profiling.layer_rows import InputRows, LayerRows
from layerlens.profiling.layer_statistics import LayerStatistics
from layerlens.profiling.layer_sums import InputSums, LayerSums
from layerlens.profiling.spaces import Space, Tokens


def empty_statistics(spec: LayerSpec, space: Space, tokens: Tokens, device: torch.device) -> LayerStatistics:
    """Statistics of a layer with an input of its own, before anything was seen."""
    if space is Space.TOKENS:
        return LayerRows(spec, InputRows(tokens.num_rows), device, tokens.num_rows)
    return LayerSums(spec, InputSums(spec.in_features, tokens.num_gram_rows), device, tokens)
