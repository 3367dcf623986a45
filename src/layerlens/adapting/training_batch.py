"""The batch of one training step."""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.data.example import Batch, Example
from layerlens.data.task import Task

#: Tokens of a batch are padded to a multiple of this. oneDNN keeps code for each shape of a product that it meets, and batches
#: of every length leave it between their tensors, where it breaks the heap into holes: 100 steps of LoRA on MRPC took 1,899 MiB
#: padded to the longest, 1,364 with that cache off, and 1,154 padded to 16, a tenth sooner.
TOKENS = 16


def training_batch(task: Task, examples: Sequence[Example]) -> Batch:
    """Collate the samples of a step."""
    return task.collate(examples, multiple_of=TOKENS)
