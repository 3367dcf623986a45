"""One batch that stands for all: what is timed."""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.data.training_batches import typical_length


def typical_batch(
    task: Task, examples: Sequence[Example], lengths: Sequence[int], *, batch_size: int, max_tokens: int | None = None
) -> Batch:
    """A batch as long as training's are in the mean, of the samples that come closest to it.

    A step of full fine-tuning spends as much on its optimiser however short its samples are, so at the mean length of a sample
    adapters would look cheaper than they are: on STS-B a sample has 28 tokens and a batch 39.

    Args:
        task: Collates; one that pads nothing on gets its samples as they are.
        examples: Encoded samples.
        lengths: Tokens of each.
        batch_size: Samples of the batch.
        max_tokens: Padded tokens of the batch at most, but for a single sample; without limit if not given.
    """
    length = typical_length(lengths, batch_size=batch_size, max_length=task.info.max_length)
    limit = batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // length))
    return task.collate([examples[sample] for sample in typical_samples(lengths, limit, length)], multiple_of=length)


def typical_samples(lengths: Sequence[int], num: int, length: int) -> list[int]:
    """The `num` samples that are closest to a length, in calibration order; longer ones only where there are too few others."""
    nearest = sorted(range(len(lengths)), key=lambda sample: (lengths[sample] > length, abs(lengths[sample] - length), sample))
    return sorted(nearest[:num])
