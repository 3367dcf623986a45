"""Where a streamed layer's weight comes from: held in memory as it is stored, or read in slices each time it is used.

hold()      the stored type stays in memory until release(); whole where that type is asked for, converted in slices otherwise
otherwise   slices are read from the file, used and let go: one slice is all that is ever in memory
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor

from layerlens.errors import CheckpointError
from layerlens.models.streamed.tensor_reader import TensorReader

#: Bytes of a float32 slice: large enough for a matrix product at full speed, small beside any activation.
SLICE_BYTES = 4 << 20
#: The same on an accelerator, which needs more rows at once to be busy.
_DEVICE_SLICE_BYTES = 128 << 20


class WeightSource:
    """A matrix of a checkpoint, as stored.

    Args:
        reader: Reads it.
        name: Its name in the checkpoint.

    Attributes:
        shape: As stored: [out_features, in_features], transposed for GPT-2's `Conv1D`.
        num_bytes: As stored.
        device: Where it is wanted.
    """

    def __init__(self, reader: TensorReader, name: str) -> None:
        header = reader.header(name)
        self.shape = (int(header.shape[0]), int(header.shape[1]))
        self.num_bytes = reader.num_bytes(name)
        self.device = torch.device("cpu")
        self._reader, self._name = reader, name
        self._held: Tensor | None = None
        self._is_checked = False

    @property
    def is_held(self) -> bool:
        """Whether the weight is in memory now."""
        return self._held is not None

    def hold(self, values: Tensor | None = None) -> None:
        """Keep the weight as it is stored.

        Args:
            values: What `read_into` read, brought to the device; None to read it now.

        Raises:
            CheckpointError: it cannot be read, or holds NaN or infinities.
        """
        if self._held is not None:
            return
        if values is None:
            values = self.read().to(self.device)
        else:
            self._check(values)
            self._is_checked = True
        self._held = values

    def release(self) -> None:
        """Let the weight go."""
        self._held = None

    @contextmanager
    def holding(self, values: Tensor) -> Iterator[None]:
        """Hold another matrix, shaped as the stored one, until the context ends; then what was held before."""
        former, self._held = self._held, values
        try:
            yield
        finally:
            self._held = former

    def read(self) -> Tensor:
        """The whole matrix in the type it is stored in; a held one is given back, not copied."""
        if self._held is not None:
            return self._held
        values = self._reader.read(self._name)
        self._check(values)
        self._is_checked = True
        return values

    def read_into(self, buffer: UInt8[Tensor, " bytes"]) -> Tensor:
        """Read the matrix into a buffer of `num_bytes` on the host and give it back as it lies there; its values are not checked.

        Raises:
            CheckpointError: it cannot be read.
        """
        staged = buffer.view(self._reader.dtype(self._name)).view(self.shape)
        self._reader.read_into(self._name, staged)
        return staged

    def slices(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[slice, Tensor]]:
        """The matrix in a type, as row ranges of what is stored with their values."""
        if self._held is not None and self._held.dtype == dtype:
            yield slice(0, self.shape[0]), self._held
            return
        num_bytes = SLICE_BYTES if self.device.type == "cpu" else _DEVICE_SLICE_BYTES
        step = max(1, num_bytes // (4 * self.shape[1]))
        for start in range(0, self.shape[0], step):
            rows = slice(start, min(start + step, self.shape[0]))
            if self._held is not None:
                yield rows, self._held[rows].to(dtype)
                continue
            values = self._reader.read(self._name, rows.start, rows.stop)
            if not self._is_checked:
                self._check(values)
                # Whoever reads may stop at the last slice.
                self._is_checked = rows.stop == self.shape[0]
            yield rows, values.to(self.device).to(dtype)

    def _check(self, values: Tensor) -> None:
        # Minimum and maximum carry NaN and infinities along and need no copy of the tensor.
        if not self._is_checked and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
            raise CheckpointError(f"NaN or infinite weights in {self._name}; use an undamaged checkpoint")
