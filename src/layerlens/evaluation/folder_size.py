"""What a model folder weighs: bytes of all tensors in its safetensors files, as the plan counts them."""

from __future__ import annotations

from math import prod
from pathlib import Path

from layerlens.errors import CheckpointError
from layerlens.models.headers import ELEMENT_BYTES, read_headers


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors of a folder's safetensors files, file headers apart.

    Raises:
        CheckpointError: there is none, one is damaged, or a tensor is of a type of unknown width.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no safetensors file, so its size cannot be told; give a model folder that has")
    total = 0
    for file in files:
        for name, header in read_headers(file).items():
            if header.dtype not in ELEMENT_BYTES:
                raise CheckpointError(f"{name} in {file} is stored as {header.dtype}, whose width is unknown")
            total += prod(header.shape) * ELEMENT_BYTES[header.dtype]
    return total


def bits_per_weight(size_bytes: int, num_parameters: int) -> float:
    """8 × bytes of all tensors / all parameters of the original model."""
    return 8 * size_bytes / num_parameters
