"""What one encoded sample and one batch are.

An example maps the names of a model's inputs to lists, numbers or arrays without a batch axis: `input_ids`,
`attention_mask` and, where the model takes them, `token_type_ids` as lists of ints; `pixel_values` as a float32
array `[channels height width]`; `labels` as an int, a float or a list of ints. A question-answering example carries
`start_positions` and `end_positions` in place of `labels`, and what scoring needs: `context`, `answers`, `offsets`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

Example = dict[str, Any]
Batch = dict[str, Tensor]


def hash_examples(examples: Iterable[Example]) -> str:
    """Hash encoded samples in the order given: same tokens, pixels and labels, same sha256.

    Names and lengths are hashed along, so that no two different sequences of samples share a byte stream.
    """
    digest = hashlib.sha256()
    for example in examples:
        for name in sorted(example):
            value = example[name]
            if isinstance(value, np.ndarray):
                content = np.ascontiguousarray(value).tobytes()
                kind = f"{value.dtype.str}{value.shape}"
            else:
                content = json.dumps(value, ensure_ascii=False).encode()
                kind = "json"
            digest.update(f"{name}\0{kind}\0{len(content)}\0".encode())
            digest.update(content)
        digest.update(b"\n")
    return digest.hexdigest()
