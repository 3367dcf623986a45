"""Where the blocks of a streamed model are computed, and how what they need gets there and what they leave gets back.

    host      weights and hidden states are read when they are asked for: nothing ahead, no copies, no threads
    device    read ahead and copied while the part or block before is at work (`device_placement.py`)

Steps speak to their placement alone, so they are the same code wherever they run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType

import torch
from torch import Tensor

from layerlens.models.streamed.load import StreamedModel
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.samples import Part

#: Gives a part's values in a slot of the store, where the block is computed; each slot is asked for once.
Take = Callable[[int], Tensor]


class Placement(ABC):
    """Where blocks are computed; a context that lets go of everything at its end.

    Attributes:
        device: There.
    """

    device: torch.device

    @abstractmethod
    def follow(self, turns: Iterable[int | None]) -> None:
        """Say which blocks have their turn from now on, in order; None for what surrounds the blocks.

        A turn that was not said, or said and never taken, costs time alone.
        """

    @abstractmethod
    def held(self, model: StreamedModel, turn: int | None) -> AbstractContextManager[None]:
        """Have the weights of a block at hand until the context ends; None for what surrounds the blocks."""

    @abstractmethod
    def reading(self, store: ActivationStore, parts: Iterable[Part], slots: Sequence[int]) -> Iterator[tuple[Part, Take]]:
        """Every part, with what gives its values in these slots."""

    @abstractmethod
    def write(self, store: ActivationStore, slot: int, part: Part, values: Tensor) -> None:
        """Put a part's values into a slot, now or by the time that `drain` returns; they may not be changed meanwhile."""

    @abstractmethod
    def drain(self) -> None:
        """Wait until everything is written and nothing is read any more.

        Raises:
            ConfigError: something could not be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class HostPlacement(Placement):
    """On the processor, with no more in memory than what is at work."""

    device = torch.device("cpu")

    def follow(self, turns: Iterable[int | None]) -> None:
        pass

    def held(self, model: StreamedModel, turn: int | None) -> AbstractContextManager[None]:
        # What surrounds the blocks is read in slices: a head is as large as several blocks.
        return nullcontext() if turn is None else model.held(turn)

    def reading(self, store: ActivationStore, parts: Iterable[Part], slots: Sequence[int]) -> Iterator[tuple[Part, Take]]:
        for part in parts:
            yield part, partial(_read, store, part)

    def write(self, store: ActivationStore, slot: int, part: Part, values: Tensor) -> None:
        store.write(slot, part.batch, part.samples.start, values)

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


def _read(store: ActivationStore, part: Part, slot: int) -> Tensor:
    return store.read(slot, part.batch, part.samples.start, part.samples.stop)
