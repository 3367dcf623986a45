"""Training steps that start at the boundary above the frozen blocks, from hidden states that are computed once.

A sample's hidden state is always that of the batch of the run in which the sample comes first, whenever it is computed:
a resumed run, which has lost what the stopped one kept, runs those batches through the frozen blocks again and ends with
the same bytes. In later epochs the sample stands in other batches, padded otherwise; matrix products of other shapes add in
another order, so such a step equals one that runs the frozen blocks on its own batch within rounding (1e-6 in float32),
and to the bit where both batches are padded alike.

Kept are real tokens; padding is zero, which no real token sees and no loss.

Keeping pays from the second time that a sample is seen. Where hardly any is seen twice, each step runs the frozen blocks,
without gradients, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.adapting.boundary_store import BoundaryShelf, BoundaryStore, open_store, size_bytes
from layerlens.adapting.frozen_blocks import FrozenBlocks
from layerlens.config import TrainingConfig
from layerlens.data.batches import example_length
from layerlens.data.example import Batch, Example
from layerlens.data.inference import to_device
from layerlens.data.task import Task
from layerlens.data.training_batches import training_batch
from layerlens.progress import SILENT, Progress
from layerlens.words import TaskKind

Hidden = Float[Tensor, "samples tokens hidden"]

#: Lies among a run's checkpoints and goes with them.
BOUNDARY_FILE = "boundary"
#: Share of a run's samples that are seen again at least, for keeping to be worth its writes.
_WORTH_KEEPING = 0.1
#: Samples that the two halves are tried on.
_TRIED_SAMPLES = 2


class BoundaryStart:
    """Gives every step of one run the place where its forward pass starts.

    Args:
        model: What is trained, with its adapters on.
        task: Collates samples.
        examples: What `batches` index.
        batches: Sample numbers of every step of the run.
        config: How much may be kept.
        folder: Where a file may lie; none keeps in memory or not at all.
        shelf: Stores shared with other runs.
        seed: Of the sequence that `batches` are the start of; a shelf is shared by it.
        progress: Told what is kept, and why where nothing is.

    Attributes:
        cut: Frozen blocks at the bottom that are not run in a backward pass; 0 where there are none.
        kept_bytes: Size of the hidden states that this run keeps.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        examples: Sequence[Example],
        batches: Sequence[Sequence[int]],
        config: TrainingConfig,
        *,
        folder: Path | None = None,
        shelf: BoundaryShelf | None = None,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self._task, self._examples, self._batches, self._config = task, examples, batches, config
        self._folder, self._shelf, self._seed, self._progress = folder, shelf, seed, progress
        self._frozen = FrozenBlocks.of(model)
        self._store: BoundaryStore | None = None
        self._first: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._is_ready = False
        self.cut = 0 if self._frozen is None else self._frozen.cut
        self.kept_bytes = 0

    @contextmanager
    def step(self, samples: Sequence[int], batch: Batch) -> Iterator[None]:
        """Let the forward pass of a training step on this batch start as high as it may.

        Args:
            samples: Sample numbers of the batch.
            batch: The collated batch on the model's device.
        """
        if not self._is_ready:
            self._get_ready(batch)
        if self._frozen is None:
            yield
            return
        with self._frozen.starting_from(self._hidden(self._frozen, samples, batch)):
            yield

    def close(self) -> None:
        """Remove what only this run kept."""
        if self._store is not None and self._shelf is None:
            self._store.close()
        self._store = None

    def __enter__(self) -> BoundaryStart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get_ready(self, batch: Batch) -> None:
        """Try the halves, and decide what is kept; at the first step, where devices and arithmetic are those of training."""
        self._is_ready = True
        if self._frozen is None:
            return
        few = self._tried(batch)
        inputs = self._task.model_inputs(few)
        if not self._frozen.learn(inputs, self._task.token_mask(few)):
            self._progress.note(
                f"{self.cut} blocks are frozen, but this model's blocks pass on more than a hidden state: every step runs them"
            )
            self._frozen, self.cut = None, 0
            return
        hidden = self._frozen.boundary(inputs)
        self._lengths = self._kept_lengths(hidden)
        self._store = self._open(hidden)
        if self._store is None:
            return
        self.kept_bytes = size_bytes(self._lengths, hidden.shape[-1])
        for place, samples in enumerate(self._batches):
            for sample in samples:
                self._first.setdefault(sample, place)

    def _tried(self, batch: Batch) -> Batch:
        """The samples that the halves are tried on: the run's shortest and longest, whose padding shows whether tokens see it.

        The same ones wherever a run begins or goes on; of images, which are all of one size, the first of the step's.
        """
        if self._task.info.kind is TaskKind.IMAGE_CLASSIFICATION:
            return {name: value[:_TRIED_SAMPLES] for name, value in batch.items()}
        order = sorted(self._text_lengths, key=lambda sample: (self._text_lengths[sample], sample))
        return self._batch_of([order[0], order[-1]], next(iter(batch.values())).device)

    @cached_property
    def _text_lengths(self) -> dict[int, int]:
        """Tokens of every sample of the run."""
        return {sample: example_length(self._examples[sample]) for samples in self._batches for sample in samples}

    def _batch_of(self, samples: Sequence[int], device: torch.device) -> Batch:
        return to_device(training_batch(self._task, [self._examples[sample] for sample in samples]), device)

    def _open(self, hidden: Hidden) -> BoundaryStore | None:
        if self._shelf is not None:
            shared = self._shelf.store(self._seed, self.cut, self._lengths, hidden.shape[-1])
            if shared is not None:
                return shared
        self._shelf = None
        num_seen = sum(map(len, self._batches))
        if num_seen - len(self._lengths) < _WORTH_KEEPING * num_seen:
            return None
        found = open_store(
            self._lengths,
            hidden,
            in_memory_bytes=self._config.keep_in_memory,
            at_most_bytes=self._config.keep_at_most,
            path=None if self._folder is None else self._folder / BOUNDARY_FILE,
        )
        size = f"{size_bytes(self._lengths, hidden.shape[-1]) / 2**20:,.0f} MiB of hidden states"
        if found is None:
            self._progress.note(f"{size} above {self.cut} frozen blocks are not kept: over --keep-at-most, or over the disk")
        else:
            self._progress.note(f"{self.cut} blocks are frozen: {size} above them are computed once and kept")
        return found

    def _kept_lengths(self, hidden: Tensor) -> dict[int, int]:
        """Tokens that are kept of each sample of the run."""
        if self._task.info.kind is TaskKind.IMAGE_CLASSIFICATION:
            return dict.fromkeys((sample for samples in self._batches for sample in samples), hidden.shape[1])
        return self._text_lengths

    def _hidden(self, frozen: FrozenBlocks, samples: Sequence[int], batch: Batch) -> Hidden:
        """What enters the lowest trained block, padded as the batch is."""
        store = self._store
        if store is None:
            return frozen.boundary(self._task.model_inputs(batch))
        device = next(iter(batch.values())).device
        for place in sorted({self._first[sample] for sample in samples if sample not in store}):
            self._keep(frozen, store, place, device)
        rows = [store.get(sample) for sample in samples]
        mask = self._task.token_mask(batch)
        num_tokens = len(rows[0]) if mask is None else mask.shape[1]
        hidden = torch.zeros(len(rows), num_tokens, rows[0].shape[-1], dtype=rows[0].dtype)
        for number, row in enumerate(rows):
            hidden[number, : len(row)] = row
        return hidden.to(device)

    def _keep(self, frozen: FrozenBlocks, store: BoundaryStore, place: int, device: torch.device) -> None:
        """Run a batch through the frozen blocks and keep those of its samples that come first in it."""
        samples = self._batches[place]
        batch = self._batch_of(samples, device)
        hidden = frozen.boundary(self._task.model_inputs(batch))
        for number, sample in enumerate(samples):
            if self._first[sample] == place:
                store.put(sample, hidden[number, : self._lengths[sample]])
