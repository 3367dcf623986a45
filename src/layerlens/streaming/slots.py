"""Which slot of the activation store holds which boundary, as pure functions of the groups: nothing to save, nothing to lose.

Boundary b is the input of block b; boundary L, of a model with L blocks, is what the last block gives back.

    0 … m−2        inputs of the groups above the lowest one; a group that is done gives its slot to those below
    m−1 …          inputs inside the group at hand
    last 2 (or 4)  gradients by parity of their boundary; before the backward pass, hidden states on their way up
"""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.streaming.boundaries import block_groups


class Slots:
    """Slots of one plan of boundaries.

    Args:
        num_blocks: Blocks of the model.
        num_slots: Slots of the store.
        labels: Labels that gradients come from (`empirical`, `true`).
    """

    def __init__(self, num_blocks: int, num_slots: int, labels: Sequence[str]) -> None:
        self.groups = block_groups(num_blocks, num_slots, len(labels))
        self.num_slots = num_slots
        self._labels = list(labels)
        self._first_gradient = num_slots - 2 * len(labels)
        self._starts = {group.start: position for position, group in enumerate(self.groups)}

    def upward(self, boundary: int) -> int | None:
        """Slot of a boundary during the forward pass; None for the first, which the embeddings give."""
        if boundary == 0:
            return None
        if boundary in self._starts:
            return self._starts[boundary] - 1
        # Not the parity of the boundary's gradient: the top hidden state is read while its gradient is written.
        return self._first_gradient + (boundary + 1) % 2

    def inside(self, group: int, boundary: int) -> int | None:
        """Slot of a boundary of a group during its backward pass; None for the first of all."""
        start = self.groups[group].start
        if boundary == start:
            return self.upward(boundary)
        # Groups above are done: their slots come first, then those that no group input ever takes.
        return group + boundary - start - 1

    def gradient(self, boundary: int, labels: str) -> int:
        """Slot of the gradient by a boundary's hidden state."""
        return self._first_gradient + 2 * self._labels.index(labels) + boundary % 2
