"""What the planned layers of a frozen base take in memory, by how a library holds them (`models/quantised_base.py`).

int8-torchao   a byte for each weight; for each row a scale in float32 and a zero point of a byte
int8-bnb       a byte for each weight, a scale in float32 for each row
int4-bnb       half a byte for each weight, in whole blocks of 64; for each block the largest absolute value in float32

A product needs a matrix in float32 for a moment: it is decoded forward and again backward, one matrix at a time. torchao makes
it of codes that were converted and of these times their scales, two such matrices at once. It is added to the most that a block
takes for a moment, though the two seldom meet: so a price may be these matrices too high, and is hardly ever too low.
"""

from __future__ import annotations

import math

from layerlens.config import BaseFormat

FLOAT_BYTES = 4
#: Weights that share one scale in 4 bits.
BLOCK = 64
#: Matrices in float32 that are there at once when one is decoded.
DECODED = {BaseFormat.AS_IS: 0, BaseFormat.INT8_TORCHAO: 2, BaseFormat.INT8_BNB: 1, BaseFormat.INT4_BNB: 1}


def held_bytes(base_format: BaseFormat, in_features: int, out_features: int) -> int:
    """Bytes that a weight matrix takes while adapters train over it."""
    weights = in_features * out_features
    if base_format is BaseFormat.AS_IS:
        return FLOAT_BYTES * weights
    if base_format is BaseFormat.INT4_BNB:
        return math.ceil(weights / BLOCK) * (BLOCK // 2 + FLOAT_BYTES)
    return weights + (FLOAT_BYTES + (base_format is BaseFormat.INT8_TORCHAO)) * out_features


def decoded_bytes(base_format: BaseFormat, in_features: int, out_features: int) -> int:
    """Bytes that a product with such a matrix takes for a moment, beside inputs and outputs."""
    return DECODED[base_format] * FLOAT_BYTES * in_features * out_features
