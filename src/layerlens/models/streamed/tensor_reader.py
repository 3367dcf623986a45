"""Reading single tensors, or rows of one, straight from safetensors files into memory of one's own.

Plain reads at an offset, not a memory map: pages of a mapped file count as the process's memory for as long as the kernel
likes, while a read leaves nothing behind but the tensor that was asked for (the kernel's own cache is nobody's).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerlens.errors import CheckpointError, DataError
from layerlens.models.headers import ELEMENT_BYTES, TensorHeader

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


#: Bytes of a matrix that are compared at once.
_COMPARED_BYTES = 16 << 20


class TensorReader:
    """Reads tensors by their name in a checkpoint, from any thread; files are opened once and closed by `close`.

    Args:
        tensors: Headers by name, from `open_checkpoint`.
    """

    def __init__(self, tensors: Mapping[str, TensorHeader]) -> None:
        self._tensors = tensors
        self._descriptors: dict[Path, int] = {}
        self._opening = threading.Lock()

    def header(self, name: str) -> TensorHeader:
        """What the file says of a tensor."""
        return self._tensors[name]

    def num_bytes(self, name: str) -> int:
        """Bytes of a tensor in its file."""
        header = self._tensors[name]
        return prod(header.shape) * ELEMENT_BYTES[header.dtype]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor, or its rows from `start` to `stop`, in the type it is stored in.

        Raises:
            CheckpointError: the file cannot be read or has become shorter, or the type is none that torch computes with.
        """
        header = self._tensors[name]
        if not header.shape:
            return self._read(name, 0, 1).reshape(())
        length = header.shape[0] if stop is None else min(stop, header.shape[0])
        row = prod(header.shape[1:])
        return self._read(name, start * row, (length - start) * row).view(max(0, length - start), *header.shape[1:])

    def read_into(self, name: str, out: Tensor) -> None:
        """Read a whole tensor into a contiguous one on the host, of the same number and type of elements.

        Raises:
            CheckpointError: as `read`.
        """
        self._read_into(name, 0, out)

    def gather(self, name: str, rows: Sequence[int]) -> Tensor:
        """Read single rows of a matrix, in the order given.

        Raises:
            CheckpointError: as `read`.
            DataError: the matrix has no such row; what lies there in the file is another tensor's.
        """
        header = self._tensors[name]
        if outside := [index for index in rows if not 0 <= index < header.shape[0]]:
            raise DataError(
                f"row {outside[0]} of {name} is asked for, which has {header.shape[0]} rows in {header.file}; use the tokenizer "
                "and a --max-length that the model was trained with"
            )
        row = prod(header.shape[1:])
        out = torch.empty(len(rows), row, dtype=self.dtype(name))
        for position, index in enumerate(rows):
            self._read_into(name, index * row, out[position])
        return out.view(len(rows), *header.shape[1:])

    def is_same(self, first: str, second: str) -> bool:
        """Whether two matrices hold the same values, whatever type each is stored in; as many rows at once as memory bears.

        Raises:
            CheckpointError: as `read`.
        """
        shape = self._tensors[first].shape
        if self._tensors[second].shape != shape:
            return False
        step = max(1, _COMPARED_BYTES // max(1, 4 * prod(shape[1:])))
        return all(
            torch.equal(*(self.read(name, start, start + step).float() for name in (first, second)))
            for start in range(0, shape[0], step)
        )

    def close(self) -> None:
        """Close every file."""
        with self._opening:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def dtype(self, name: str) -> torch.dtype:
        """The type that a tensor is stored in.

        Raises:
            CheckpointError: it is none that torch computes with.
        """
        header = self._tensors[name]
        if header.dtype not in TORCH_DTYPES:
            raise CheckpointError(f"{name} in {header.file} is stored as {header.dtype}; give the model in float weights")
        return TORCH_DTYPES[header.dtype]

    def _read(self, name: str, first: int, count: int) -> Tensor:
        out = torch.empty(count, dtype=self.dtype(name))
        self._read_into(name, first, out)
        return out

    def _read_into(self, name: str, first: int, out: Tensor) -> None:
        """Fill a contiguous tensor with elements from number `first` on."""
        header = self._tensors[name]
        width = ELEMENT_BYTES[header.dtype]
        buffer = as_bytes(out)
        offset, done = header.start + first * width, 0
        try:
            with self._opening:
                descriptor = self._descriptors.get(header.file)
                if descriptor is None:
                    descriptor = self._descriptors[header.file] = os.open(header.file, os.O_RDONLY)
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
                if count == 0:
                    raise CheckpointError(f"{header.file} has become shorter while it was read; copy or download it again")
                done += count
        except OSError as error:
            raise CheckpointError(f"cannot read {header.file}: {error.strerror or error}; copy or download it again") from error


def as_bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous tensor, to read into or write from."""
    flat: Any = values.view(-1).view(torch.uint8).numpy() if values.numel() else bytearray()
    return memoryview(flat)
