"""The batches that every proxy is trained and scored on, with what the blocks below a layer give for them.

Frozen and without dropout these blocks never change their output, so it is computed once and proxies start above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerlens.artifacts.layers import BlockSpec
from layerlens.config import ProfilingConfig
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import NotFiniteError
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.block_replay import BlockReplay


class ProxyBench:
    """Trains small modules on a frozen model, one at a time and from the same start, and scores what they gain.

    Args:
        model: Frozen.
        task: Loss and labels.
        blocks: Blocks of the model, in forward order.
        batches: Batches to train on, then batches to score on.
        num_train: How many of them are trained on, in order.
    """

    def __init__(
        self, model: nn.Module, task: Task, blocks: Sequence[BlockSpec], batches: Sequence[Sequence[Example]], num_train: int
    ) -> None:
        self._model, self._task, self._num_train = model, task, num_train
        self._replay = BlockReplay(model, [block.path for block in blocks])
        self._batches: list[Batch] = [to_device_of(model, task.collate(batch)) for batch in batches]
        for batch in self._batches:
            with self._replay.recording():
                model(**task.model_inputs(batch))

    def held_out_losses(self, block: int) -> Float[np.ndarray, " samples"]:
        """Loss of each held-out sample, nats."""
        with torch.no_grad():
            losses = [self._losses(block, batch).double() for batch in range(self._num_train, len(self._batches))]
        return torch.cat(losses).cpu().numpy()

    def losses_after(
        self,
        probe: nn.Module,
        placed: AbstractContextManager[None],
        config: ProfilingConfig,
        *,
        block: int,
        name: str,
        rate: float = 1.0,
    ) -> Float[np.ndarray, " samples"]:
        """Loss of each held-out sample after the steps of a proxy.

        Args:
            probe: The small module; its parameters are trained by Adam.
            placed: Keeps it on the model.
            config: Learning rate.
            block: The block that it is in.
            name: Of its place, for the error.
            rate: Times the config's learning rate.

        Raises:
            NotFiniteError: The steps led to NaN or infinity.
        """
        optimizer = torch.optim.Adam(probe.parameters(), lr=rate * config.proxy_learning_rate)
        with placed:
            for batch in range(self._num_train):
                optimizer.zero_grad()
                with torch.enable_grad():
                    self._losses(block, batch).mean().backward()
                optimizer.step()
            losses = self.held_out_losses(block)
        if not np.isfinite(losses).all():
            raise NotFiniteError(
                f"the proxy of layer {name} ended at a loss of {losses.mean()}; lower proxy_learning_rate "
                f"(now {config.proxy_learning_rate})"
            )
        return losses

    def _losses(self, block: int, batch: int) -> torch.Tensor:
        values = self._batches[batch]
        with self._replay.starting_at(block, batch):
            outputs = self._model(**self._task.model_inputs(values))
        return self._task.per_sample_loss(outputs, values)
