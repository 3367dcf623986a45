"""Several processes, each with a part of the samples: their statistics are summed in the first one.

    accelerate launch --multi_gpu --num_processes 2 -m layerlens profile …     (or torchrun --nproc-per-node 2 -m …)

Batches are cut into consecutive shares of about equal tokens, so that joining the processes' results in their order gives the
order of one process. Sums over samples are added (torch.distributed, gloo), so a result differs from that of one process by the
rounding of these additions alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as distributed
from torch import nn

from layerlens.errors import ConfigError
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.layer_sums import LayerSums
from layerlens.profiling.statistics import Statistics


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is, counted from 0."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process puts the results together and writes them."""
        return self.rank == 0

    def share(self, batches: Sequence[CalibrationBatch]) -> range:
        """Positions of this process's batches.

        Raises:
            ConfigError: There are more processes than batches.
        """
        if len(batches) < self.count:
            raise ConfigError(f"{self.count} processes share {len(batches)} batches; start fewer, or give a smaller --batch-size")
        tokens = [len(batch.samples) * batch.num_tokens for batch in batches]
        bounds = [0]
        for rank in range(1, self.count):
            goal = sum(tokens) * rank / self.count
            # Every process gets a batch at least.
            choices = range(bounds[-1] + 1, len(batches) - (self.count - rank) + 1)
            bounds.append(min(choices, key=lambda bound: abs(sum(tokens[:bound]) - goal)))
        bounds.append(len(batches))
        return range(bounds[self.rank], bounds[self.rank + 1])

    def merge(self, statistics: Statistics) -> Statistics:
        """Add the other processes' statistics to the first one's; in the others the result is their own.

        Input group by input group, so that no more than one of another process is in memory beside its own.
        """
        if self.count == 1:
            return statistics
        for found in self._gathered((statistics.losses, statistics.num_terms)):
            statistics.losses[:] += found[0]
            statistics.num_terms += found[1]
        groups: dict[str, list[str]] = {}
        for layer, group in statistics.input_groups.items():
            groups.setdefault(group, []).append(layer)
        for names in groups.values():
            for found in self._gathered([statistics.layers[name] for name in names]):
                for position, (name, other) in enumerate(zip(names, found, strict=True)):
                    mine = statistics.layers[name]
                    if not isinstance(mine, LayerSums) or not isinstance(other, LayerSums):
                        raise TypeError("statistics of several processes are kept in feature space")
                    mine.absorb(other)
                    if position == 0:
                        mine.shared.absorb(other.shared)
        return statistics

    def share_parameters(self, model: nn.Module, names: Sequence[str]) -> None:
        """Give every process the first one's values of these parameters."""
        if self.count == 1:
            return
        parameters = dict(model.named_parameters())
        for name in names:
            distributed.broadcast(parameters[name].data, src=0)

    def _gathered(self, value: Any) -> list[Any]:
        """What the others have, in their order; empty except in the first process."""
        found: list[Any] | None = [None] * self.count if self.is_first else None
        distributed.gather_object(value, found, dst=0)
        return found[1:] if found else []


ALONE = Processes()


def started_processes() -> Processes:
    """The processes that a launcher started, joined; `ALONE` where none did."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave_processes() -> None:
    """Part from the others, where a launcher started some."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
