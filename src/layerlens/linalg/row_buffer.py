"""Rows that arrive over many batches, in one block of memory that is never copied to be joined."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


class RowBuffer:
    """Rows of one width, in the type of the first that came.

    Args:
        capacity: Rows that are expected. More may come, at the price of a copy; what stays empty takes address space,
            and on a processor no memory.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._block: Tensor | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, rows: Float[Tensor, "rows features"]) -> None:
        """Copy rows to the end."""
        needed = self._length + len(rows)
        if self._block is None:
            self._block = rows.new_empty(max(needed, self._capacity), rows.shape[1])
        elif needed > len(self._block):
            grown = self._block.new_empty(max(needed, 2 * len(self._block)), rows.shape[1])
            grown[: self._length] = self._block[: self._length]
            self._block = grown
        self._block[self._length : needed] = rows
        self._length = needed

    @property
    def rows(self) -> Float[Tensor, "rows features"] | None:
        """A view of all rows; None where none ever came."""
        return None if self._block is None else self._block[: self._length]

    def clear(self) -> None:
        """Let the memory go."""
        self._block, self._length = None, 0
