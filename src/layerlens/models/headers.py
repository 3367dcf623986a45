"""Reading a safetensors file's header: names, shapes and lengths, without a single weight.

    | 8 bytes: n, little endian | n bytes: JSON {name: {dtype, shape, data_offsets}} | data … |

The header says how long the data must be, so a file cut short is found before anything is loaded.
Format: safetensors, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from layerlens.errors import CheckpointError

#: Bytes per element of the types whose elements fill whole bytes.
ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
LENGTH_BYTES = 8
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of one tensor; `start` is where its data begin in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int = 0


def tensor_bytes(tensors: Mapping[str, TensorHeader]) -> int:
    """Bytes of tensors as they lie in their files, headers apart.

    Raises:
        CheckpointError: a tensor is of a type of unknown width.
    """
    for name, header in tensors.items():
        if header.dtype not in ELEMENT_BYTES:
            raise CheckpointError(f"{name} in {header.file} is stored as {header.dtype}, whose width is unknown")
    return sum(prod(header.shape) * ELEMENT_BYTES[header.dtype] for header in tensors.values())


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Read the names, types and shapes of all tensors of one safetensors file, and check its length.

    Args:
        path: The safetensors file.

    Returns:
        The header of each tensor by name, in the file's order.

    Raises:
        CheckpointError: the file cannot be read, is no safetensors file, or is cut short.
    """
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
            if start == LFS_POINTER:
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
            header_bytes = int.from_bytes(start[:LENGTH_BYTES], "little")
            available = num_bytes - LENGTH_BYTES
            if len(start) < LENGTH_BYTES or header_bytes > available:
                raise CheckpointError(
                    f"{path} is cut short or no safetensors file: its header should take {header_bytes} bytes, "
                    f"{max(0, available)} are there; copy or download it again"
                )
            file.seek(LENGTH_BYTES)
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; copy or download it again") from error
    headers, data_bytes = _parse(path, text)
    if data_bytes != available - header_bytes:
        is_short = data_bytes > available - header_bytes
        raise CheckpointError(
            f"{path} is {'cut short' if is_short else 'longer than its header says'}: its tensors take {data_bytes} bytes, "
            f"{available - header_bytes} are there; copy or download it again"
        )
    return headers


def num_floats(tensors: Mapping[str, TensorHeader]) -> int:
    """Floating-point numbers of some tensors: a model's parameters, without counters and masks."""
    return sum(prod(header.shape) for header in tensors.values() if header.dtype.startswith(("F", "BF")))


def _parse(path: Path, text: bytes) -> tuple[dict[str, TensorHeader], int]:
    """Return the headers and the length of the data that they describe."""
    try:
        entries: dict[str, Any] = json.loads(text)
        headers, end_bytes = {}, 0
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            shape = tuple(int(size) for size in entry["shape"])
            begin, end = entry["data_offsets"]
            element_bytes = ELEMENT_BYTES.get(entry["dtype"])
            if min(begin, end - begin, *shape, 0) < 0 or (element_bytes and prod(shape) * element_bytes != end - begin):
                raise ValueError(f"{name} of shape {list(shape)} and type {entry['dtype']} takes {end - begin} bytes")
            headers[name] = TensorHeader(entry["dtype"], shape, path, start=LENGTH_BYTES + len(text) + begin)
            end_bytes = max(end_bytes, end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has no readable safetensors header ({type(error).__name__}: {error}); copy or download it again"
        ) from error
    return headers, end_bytes
