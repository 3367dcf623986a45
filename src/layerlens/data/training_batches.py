"""The batches of a training run: which samples make which, and how far they are padded; fixed by a seed, for pairs and resuming.

Samples are shuffled once per epoch; within a window of batches they are sorted by length, so that a batch holds little
padding, and the batches of a window are shuffled again. Every batch is full: what is left at an epoch's end opens
the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from layerlens.data.example import Batch, Example
from layerlens.data.padding import padded_on
from layerlens.data.task import Task

#: Batches per window: enough to pair samples of like length, few enough to keep the order random.
WINDOW = 16
#: Tokens of a batch are padded to a multiple of this. oneDNN keeps code for each shape of a product that it meets, and batches
#: of every length leave it between their tensors, where it breaks the heap into holes: 100 steps of LoRA on MRPC took 1,899 MiB
#: padded to the longest, 1,364 with that cache off, and 1,154 padded to 16, a tenth sooner.
TOKENS = 16
#: Batches that the typical length is the mean over: within half a token on the benchmarks' tasks.
_TYPICAL_BATCHES = 16 * WINDOW


def training_batches(
    num_samples: int, length_of: Callable[[int], int], *, batch_size: int, num_steps: int, seed: int
) -> list[list[int]]:
    """Draw the batches of a whole run.

    Args:
        num_samples: Samples there are; a batch is never larger.
        length_of: Tokens of a sample, asked only for samples that are drawn.
        batch_size: Samples per batch.
        num_steps: Batches to draw.
        seed: Equal seeds give equal batches; a longer run starts with the same windows as a shorter one.

    Returns:
        Sample numbers in 0 … num_samples − 1, one list per step.
    """
    size = min(batch_size, num_samples)
    generator = np.random.default_rng(seed)
    batches: list[list[int]] = []
    left: list[int] = []
    while len(batches) < num_steps:
        epoch = [*left, *generator.permutation(num_samples).tolist()]
        whole = len(epoch) - len(epoch) % size
        left = epoch[whole:]
        for start in range(0, whole, WINDOW * size):
            window = sorted(epoch[start : min(start + WINDOW * size, whole)], key=length_of)
            drawn = [window[first : first + size] for first in range(0, len(window), size)]
            batches += [drawn[index] for index in generator.permutation(len(drawn))]
    return batches[:num_steps]


def training_batch(task: Task, examples: Sequence[Example]) -> Batch:
    """Collate the samples of a step."""
    return task.collate(examples, multiple_of=TOKENS)


def typical_length(lengths: Sequence[int], *, num_samples: int, batch_size: int, max_length: int | None) -> int:
    """Tokens that a training batch is padded to in the mean: more than a sample has, for its longest sample and the rounding.

    Args:
        lengths: Tokens of some of the training samples, which stand for all: they are drawn with repetition where there are more.
        num_samples: Training samples there are; the fewer, the less alike are those of a batch.
        batch_size: Samples per step.
        max_length: Of the task, which no batch is padded on beyond; without one none is padded on.
    """
    tokens = np.asarray(lengths)
    if len(tokens) < num_samples:
        tokens = np.random.default_rng(0).choice(tokens, min(num_samples, _TYPICAL_BATCHES * batch_size))
    batches = training_batches(
        len(tokens), lambda number: int(tokens[number]), batch_size=batch_size, num_steps=_TYPICAL_BATCHES, seed=0
    )
    longest = tokens[np.array(batches)].max(axis=1).tolist()
    return round(float(np.mean([padded_on(num_tokens, TOKENS, max_length) for num_tokens in longest])))
