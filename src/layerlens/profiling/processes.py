"""Several processes, each with a part of the samples: their statistics are summed in the first one.

    accelerate launch --multi_gpu --num_processes 2 -m layerlens profile …     (or torchrun --nproc-per-node 2 -m …)

Batches are cut into consecutive shares of about equal tokens, so that joining the processes' results in their order gives the
order of one process. Sums over samples are added (torch.distributed, gloo), so metrics differ from those of one process by the
rounding of these additions (1e-5 of their size; of Fisher / N for the energy), and curves by what that does to a decomposition.
Intervals differ by more. What others found can be added in feature space alone, where the angles between gradients are those of
sketches (`intervals.py`); one process keeps the rows of tokens, which give them exactly, wherever that is cheaper (`spaces.py`).

Where one process fails all end: what may fail runs `together`, so that none waits for one that has left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as distributed
from torch import nn

from layerlens.errors import ConfigError, LayerLensError
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.layer_sums import LayerSums
from layerlens.profiling.statistics import Statistics

ValueT = TypeVar("ValueT")

#: Exit code of a process that ends because the first one refuses its input.
_BAD_INPUT = 2
#: How long processes that end wait for the first one to put its folder in order.
_LEAVING = timedelta(seconds=10)


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is.

    Attributes:
        rank: Counted from 0.
        count: Of all machines.
        num_here: How many share this machine's memory.
    """

    rank: int = 0
    count: int = 1
    num_here: int = 1

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

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Part from the others at the end; after a failure not before the first process is through with it.

        A launcher ends all processes as soon as one has failed, and the first one has a folder to put in order before.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except (Exception, SystemExit):
            if distributed.is_initialized():
                with suppress(RuntimeError):
                    distributed.monitored_barrier(timeout=_LEAVING)
            raise
        finally:
            self.leave()

    def leave(self) -> None:
        """Part from the others."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def together(self, work: Callable[[], ValueT]) -> ValueT:
        """Do some work that every process does; where it fails in one, all end.

        What may fail before the processes part has to run in such a place, and every process has to come to each of them.

        Raises:
            LayerLensError: In the first process, what was wrong in the lowest rank that failed.
            SystemExit: In the others, which leave it to the first one to say so.
            Exception: What is no fault of the input, in the process where it arose.
        """
        if self.count == 1:
            return work()
        value: list[ValueT] = []
        error: Exception | None = None
        try:
            value.append(work())
        except Exception as caught:
            error = caught
        faults: list[LayerLensError | None] = [None] * self.count
        with _answered():
            distributed.all_gather_object(faults, None if error is None else self._told(error))
        if error is not None and (self.is_first or not isinstance(error, LayerLensError)):
            raise error
        fault = next((fault for fault in faults if fault is not None), None)
        if fault is None:
            return value[0]
        if self.is_first:
            raise fault
        raise SystemExit(_BAD_INPUT)

    def of_first(self, work: Callable[[], ValueT]) -> ValueT:
        """The first process's result of some work, in every process; where it fails, all end as in `together`."""
        if self.count == 1:
            return work()
        found: list[ValueT | None] = [self.together(lambda: work() if self.is_first else None)]
        with _answered():
            distributed.broadcast_object_list(found, src=0)
        value: Any = found[0]
        return value

    def _told(self, error: Exception) -> LayerLensError:
        """What the first process says of an error in this one."""
        if isinstance(error, LayerLensError):
            return error
        what = f"process {self.rank} of {self.count} ended early: {type(error).__name__}: {error}"
        return ConfigError(f"{what}; what it printed says where")

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
            with _answered():
                distributed.broadcast(parameters[name].data, src=0)

    def _gathered(self, value: Any) -> list[Any]:
        """What the others have, in their order; empty except in the first process."""
        found: list[Any] | None = [None] * self.count if self.is_first else None
        with _answered():
            distributed.gather_object(value, found, dst=0)
        return found[1:] if found else []


ALONE = Processes()


@contextmanager
def _answered() -> Iterator[None]:
    """Tell in one line that the others have gone."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            "another of the processes that share this profile ended early, or did not answer in time; see what it printed, and "
            "start them again"
        ) from error


def started_processes() -> Processes:
    """The processes that a launcher started, joined; `ALONE` where none did."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    # Launchers that do not say how many processes a machine has are taken to have started all of them here.
    return Processes(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", count)))
