"""What a model folder weighs: bytes of all tensors that its model loads, as the plan counts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from layerlens.models.headers import TensorHeader, tensor_bytes
from layerlens.models.sentence_modules import bytes_behind


def folder_bytes(folder: Path, tensors: Mapping[str, TensorHeader]) -> int:
    """Bytes of a checkpoint's tensors and of a sentence encoder's modules behind it, whatever other files lie in the folder.

    Args:
        folder: Where it is.
        tensors: The checkpoint's own.

    Raises:
        CheckpointError: a file is damaged, or a tensor is of a type of unknown width.
    """
    return tensor_bytes(tensors) + bytes_behind(folder)


def bits_per_weight(size_bytes: int, num_parameters: int) -> float:
    """8 × bytes of all tensors / all parameters of the original model."""
    return 8 * size_bytes / num_parameters
