"""Which samples stand together in a batch: indices only, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from layerlens.data.example import Example


def example_length(example: Example) -> int:
    """Tokens of an example; 1 for an image, whose size is the same for all."""
    tokens = example.get("input_ids")
    return 1 if tokens is None else len(tokens)


def length_sorted_batches(examples: Sequence[Example], batch_size: int) -> list[list[int]]:
    """Group indices of samples of like length, longest first, so that little is padded and memory peaks at once.

    Args:
        examples: Encoded samples.
        batch_size: Samples per batch; the last batch holds the rest.

    Returns:
        Batches of indices into `examples`; every index stands in exactly one.
    """
    lengths = [example_length(examples[index]) for index in range(len(examples))]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def epoch_batches(num: int, batch_size: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """Shuffle `range(num)` for one epoch and cut it into batches; the last one holds the rest."""
    order = np.random.default_rng([seed, epoch]).permutation(num).tolist()
    return [order[start : start + batch_size] for start in range(0, num, batch_size)]


def step_batches(num: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield the batches of exactly `steps` steps, epoch after epoch; each epoch is `epoch_batches`."""
    epoch = 0
    while steps > 0:
        batches = epoch_batches(num, batch_size, seed, epoch)[:steps]
        yield from batches
        steps -= len(batches)
        epoch += 1
        if not batches:
            return
