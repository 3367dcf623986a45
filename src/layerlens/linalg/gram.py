"""Sums of outer products Σ_n z_n z_nᵀ, in the form that takes less memory: packed block rows, or the rows z_n themselves.

packed, 4 blocks of f/4 rows        rows, where no more than f/2 are expected
■ ■ ■ ■                             ▬▬▬▬▬▬▬▬  z_1
  ■ ■ ■    on and above the         ▬▬▬▬▬▬▬▬  z_2
    ■ ■    diagonal only            …
      ■
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.row_buffer import RowBuffer

_NUM_BLOCKS = 4
_SMALLEST_BLOCKED = 256


def keeps_rows(features: int, num_rows: int) -> bool:
    """Whether a Gram of that many rows takes less memory, and less work to whiten by, as its rows."""
    return features >= _SMALLEST_BLOCKED and 2 * num_rows <= features


def gram_bytes(features: int, num_rows: int) -> int:
    """Bytes of a `GramSum` in float32."""
    if keeps_rows(features, num_rows):
        return 4 * features * num_rows
    step = _block_size(features)
    return 4 * sum(min(step, features - start) * (features - start) for start in range(0, features, step))


def row_gram(rows: Float[Tensor, "rows features"], dtype: torch.dtype) -> Float[Tensor, "rows rows"]:
    """Inner products of every two rows, exactly symmetric, computed in `dtype`; the blocks below the diagonal are mirrored.

    Converts a few rows at a time, so that no second copy of all rows is made in another type.
    """
    count = len(rows)
    gram = torch.empty(count, count, dtype=dtype, device=rows.device)
    step = count if count < _SMALLEST_BLOCKED else -(-count // (2 * _NUM_BLOCKS))
    for start in range(0, count, max(1, step)):
        left = rows[start : start + step].to(dtype)
        for other in range(start, count, step):
            right = left if other == start else rows[other : other + step].to(dtype)
            block = left @ right.t()
            gram[start : start + step, other : other + step] = block if other > start else _mirrored(block)
            if other > start:
                gram[other : other + step, start : start + step] = block.t()
    return gram


class GramSum:
    """A Gram that grows with batches of rows.

    Args:
        features: Width of the rows.
        num_rows: Rows that are expected in all, by which the form is chosen; more may come.
    """

    def __init__(self, features: int, num_rows: int) -> None:
        self.features, self.num_rows = features, 0
        self._buffer = RowBuffer(num_rows) if keeps_rows(features, num_rows) else None
        self._blocks: list[Tensor] = []

    def add(self, rows: Float[Tensor, "rows features"]) -> None:
        """Add Σ z zᵀ over the rows."""
        self.num_rows += len(rows)
        if self._buffer is not None:
            self._buffer.append(rows)
            return
        step = _block_size(self.features)
        starts = range(0, self.features, step)
        if not self._blocks:
            self._blocks = [rows.new_zeros(min(step, self.features - start), self.features - start) for start in starts]
        for start, block in zip(starts, self._blocks, strict=True):
            block.addmm_(rows[:, start : start + step].t(), rows[:, start:])

    def absorb(self, other: GramSum) -> None:
        """Add what another sum of the same width, made for as many rows, has taken in."""
        self.num_rows += other.num_rows
        if self._buffer is not None:
            if other.rows is not None:
                self._buffer.append(other.rows)
        elif not self._blocks:
            self._blocks = other._blocks
        else:
            for block, theirs in zip(self._blocks, other._blocks, strict=False):
                block += theirs

    @property
    def rows(self) -> Float[Tensor, "rows features"] | None:
        """The rows, where these are what is kept."""
        return None if self._buffer is None else self._buffer.rows

    def trace(self) -> float:
        """Sum of the squares of all rows."""
        if self._buffer is not None:
            return 0.0 if self.rows is None else self.rows.double().square().sum().item()
        return sum(block.diagonal().double().sum().item() for block in self._blocks)

    def clear(self) -> None:
        """Let the memory go; nothing is left to ask for."""
        self._blocks = []
        if self._buffer is not None:
            self._buffer.clear()

    def full(self) -> Float[Tensor, "features features"]:
        """The sum as a matrix of its own, exactly symmetric."""
        if self.rows is not None:
            return self.rows.t() @ self.rows
        step = _block_size(self.features)
        gram = torch.empty(self.features, self.features, dtype=self._blocks[0].dtype, device=self._blocks[0].device)
        for start, block in zip(range(0, self.features, step), self._blocks, strict=True):
            gram[start : start + step, start:] = block
            gram[start:, start : start + step] = block.t()
            gram[start : start + step, start : start + step] = _mirrored(block[:, : len(block)])
        return gram


def _mirrored(block: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """The upper triangle on both sides, so that the result is exactly symmetric."""
    return torch.triu(block) + torch.triu(block, diagonal=1).t()


def _block_size(features: int) -> int:
    return features if features < _SMALLEST_BLOCKED else -(-features // _NUM_BLOCKS)
