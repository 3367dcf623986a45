"""One batch that stands for all: what is timed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.data.training_batches import typical_length


def typical_batch(
    task: Task,
    examples: Sequence[Example],
    lengths: Sequence[int],
    *,
    num_samples: int,
    batch_size: int,
    max_tokens: int | None = None,
) -> Batch:
    """A batch as long as training's are in the mean, of the samples that come closest to it.

    A step of full fine-tuning spends as much on its optimiser however short its samples are, so at the mean length of a sample
    adapters would look cheaper than they are: on STS-B a sample has 28 tokens and a batch 39.

    Args:
        task: Collates; one that pads nothing on gets its samples as they are.
        examples: Encoded samples.
        lengths: Tokens of each.
        num_samples: Training samples there are.
        batch_size: Samples of a training batch.
        max_tokens: Padded tokens of this batch at most, but for a single sample; without limit if not given.
    """
    size = min(batch_size, num_samples)
    length = typical_length(lengths, num_samples=num_samples, batch_size=size, max_length=task.info.max_length)
    if max_tokens is not None:
        # Room is kept for samples, not for what training pads on to the longest of them.
        length = min(length, max(lengths))
        size = max(1, min(size, max_tokens // length))
    is_padded = task.is_padded_on and task.info.max_length is not None
    chosen = typical_samples(lengths, size, length, may_be_longer=not is_padded)
    return task.collate([examples[sample] for sample in chosen], multiple_of=length)


def typical_samples(lengths: Sequence[int], num: int, length: int, *, may_be_longer: bool = False) -> list[int]:
    """`num` samples close to a length, in calibration order; some stand in the list more than once where too few fit."""
    fitting = [sample for sample, own in enumerate(lengths) if may_be_longer or own <= length]
    nearest = sorted(fitting, key=lambda sample: (abs(lengths[sample] - length), sample))
    return sorted(islice(cycle(nearest), num))
