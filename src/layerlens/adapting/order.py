"""Which samples make which batch: fixed by a seed before training, so that runs can be paired and resumed.

Samples are shuffled once per epoch; within a window of batches they are sorted by length, so that a batch holds little
padding, and the batches of a window are shuffled again. Every batch is full: what is left at an epoch's end opens
the next.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Batches per window: enough to pair samples of like length, few enough to keep the order random.
WINDOW = 16


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


def num_tuning_steps(num_samples: int, *, batch_size: int, epochs: float, max_steps: int | None = None) -> int:
    """Steps of a tuning run: `max_steps` where given, else as many batches as the epochs hold, rounded up."""
    if max_steps is not None:
        return max_steps
    return max(1, int(np.ceil(epochs * num_samples / min(batch_size, num_samples))))
