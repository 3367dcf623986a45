"""The calibration batches as a streamed pass sees them: cut into parts of so many tokens, with the blocks' arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from layerlens.data.example import Batch, Example
from layerlens.data.inference import to_device
from layerlens.data.task import Task
from layerlens.models.streamed.skeleton import BlockCall, Entry, Skeleton
from layerlens.models.tensors_in import tensors

#: Blocks' arguments of a part are kept if they are no larger; larger ones (masks) are made anew for each block.
_SMALL_BYTES = 64 << 10


@dataclass(frozen=True)
class Part:
    """Some samples of one batch, padded as the whole batch is.

    Attributes:
        batch: Position of the batch.
        samples: Which of its samples.
        values: These samples, with their labels.
        inputs: The same without labels.
        batch_mask: Which tokens of the whole batch are no padding; None where all count.
    """

    batch: int
    samples: slice
    values: Batch
    inputs: Batch
    batch_mask: Bool[Tensor, "batch_samples tokens"] | None


class Samples:
    """Batches of samples, cut into parts, on the model's device.

    Args:
        skeleton: The model's own code around its blocks.
        task: Tells inputs from labels.
        sizes: Samples of each batch.
        collated: Makes a batch, with its labels.
        tokens_at_once: Padded tokens of a part at most; at least one sample.

    Attributes:
        shapes: (samples, tokens, hidden) of each batch at the block boundaries.
    """

    def __init__(
        self, skeleton: Skeleton, task: Task, sizes: Sequence[int], collated: Callable[[int], Batch], tokens_at_once: int
    ) -> None:
        self.task, self.collated = task, collated
        self._skeleton, self._sizes, self._tokens_at_once = skeleton, sizes, tokens_at_once
        self._calls: dict[tuple[int, int], list[BlockCall]] = {}
        self.shapes = [self._shape(batch) for batch in range(len(sizes))]

    @classmethod
    def of_examples(
        cls, skeleton: Skeleton, task: Task, examples: Sequence[Example], groups: Sequence[Sequence[int]], tokens_at_once: int
    ) -> Samples:
        """Batches of examples, collated when they are asked for."""

        def collated(batch: int) -> Batch:
            return task.collate([examples[sample] for sample in groups[batch]])

        return cls(skeleton, task, [len(group) for group in groups], collated, tokens_at_once)

    @classmethod
    def of_batches(cls, skeleton: Skeleton, task: Task, batches: Sequence[Batch], tokens_at_once: int) -> Samples:
        """Batches that are there already."""
        sizes = [len(next(iter(batch.values()))) for batch in batches]
        return cls(skeleton, task, sizes, batches.__getitem__, tokens_at_once)

    def __len__(self) -> int:
        return len(self._sizes)

    def parts(self, tokens_at_once: int | None = None) -> Iterator[Part]:
        """Every part of every batch, in order, of at most so many padded tokens; none for what the samples were made with."""
        for batch, num_samples in enumerate(self._sizes):
            values = to_device(self.collated(batch), self._skeleton.device)
            mask = self.task.token_mask(values)
            size = max(1, (tokens_at_once or self._tokens_at_once) // self.shapes[batch][1])
            for start in range(0, num_samples, size):
                samples = slice(start, min(start + size, num_samples))
                own = {name: _rows(value, samples, num_samples) for name, value in values.items()}
                yield Part(batch, samples, own, self.task.model_inputs(own), mask)

    def entry(self, part: Part) -> Entry:
        """What reaches the first block."""
        return self._skeleton.entry(part.inputs)

    def call(self, part: Part, block: int) -> BlockCall:
        """A block's arguments beside the hidden state."""
        key = part.batch, part.samples.start
        if key not in self._calls:
            calls = self._skeleton.entry(part.inputs, is_blank=True).calls
            arguments = {tensor.data_ptr(): tensor.nbytes for call in calls for tensor in tensors((call.args, call.kwargs))}
            if sum(arguments.values()) > _SMALL_BYTES:
                return calls[block]
            self._calls[key] = calls
        return self._calls[key][block]

    def _shape(self, batch: int) -> tuple[int, int, int]:
        num_samples = self._sizes[batch]
        first = {name: _rows(value, slice(0, 1), num_samples) for name, value in self.collated(batch).items()}
        inputs = to_device(self.task.model_inputs(first), self._skeleton.device)
        _, tokens, hidden = self._skeleton.entry(inputs, is_blank=True).hidden.shape
        return num_samples, tokens, hidden


def _rows(value: Any, samples: slice, num_samples: int) -> Any:
    return value[samples] if isinstance(value, Tensor) and value.ndim and len(value) == num_samples else value
