"""The batch of one training step."""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.data.example import Batch, Example
from layerlens.data.task import Task

#: Tokens of a batch are padded to a multiple of this. oneDNN keeps code for each shape of a product that it meets, and batches
#: of every length leave it between their tensors, where it breaks the heap into holes: 100 steps of LoRA on MRPC took 1,899 MiB
#: padded to the longest, 1,364 with that cache off, and 1,154 padded to 16, a tenth sooner.
TOKENS = 16
#: Key of what a run is known by where its batches are so padded; runs of earlier versions lack it, whose batches were not.
PADDED_TO = "tokens_padded_to"


def training_batch(task: Task, examples: Sequence[Example]) -> Batch:
    """Collate the samples of a step."""
    return task.collate(examples, multiple_of=TOKENS)


def padding_identity(task: Task) -> dict[str, int]:
    """What a run's numbers depend on in how its batches are padded: dropout draws for padding too."""
    return {PADDED_TO: TOKENS} if task.is_padded_on else {}
