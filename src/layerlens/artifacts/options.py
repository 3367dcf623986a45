"""What a method of a size adds to a model, in exact parameters. The planner, the plan's own check and the
tuner all count with this one file.
"""

from __future__ import annotations

from layerlens.words import Method


def trainable_params(method: Method, size: int, *, in_features: int, out_features: int, kv_features: int = 0) -> int:
    """Count the parameters that an option trains.

    Args:
        method: The fine-tuning method.
        size: Rank of a LoRA, bottleneck of an adapter, tokens of a prefix; 0 only for none.
        in_features: Input width of the layer (LoRA).
        out_features: Output width of the layer (LoRA) or of the sublayer (adapter).
        kv_features: Width of one token's key over all key/value heads of the block (prefix).

    Returns:
        LoRA r·(in + out); adapter 2·d·m + m + d (down and up projection with biases); prefix 2·tokens·kv.
    """
    match method:
        case Method.LORA:
            return size * (in_features + out_features)
        case Method.ADAPTER:
            return 2 * out_features * size + size + out_features
        case Method.PREFIX:
            return 2 * size * kv_features
        case Method.NONE:
            return 0
