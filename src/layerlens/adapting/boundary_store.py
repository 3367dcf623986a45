"""Hidden states at one boundary, by sample number: in memory, or in a file where they are many.

A file is read with plain reads, so that nothing of it counts as the process's memory, and holds float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.errors import ConfigError
from layerlens.streaming.activation_store import ActivationStore

#: Types that a float32 holds without loss.
_KEPT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_WIDTH = 4

SampleHidden = Float[Tensor, "tokens hidden"]


class BoundaryStore(ABC):
    """Keeps what it is given on the processor's side, in the type it was computed in."""

    @abstractmethod
    def __contains__(self, sample: int) -> bool: ...

    @abstractmethod
    def put(self, sample: int, hidden: SampleHidden) -> None:
        """Keep a sample's hidden state; a copy is made."""

    @abstractmethod
    def get(self, sample: int) -> SampleHidden:
        """A kept hidden state."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""


class MemoryStore(BoundaryStore):
    """In memory."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def __contains__(self, sample: int) -> bool:
        return sample in self._kept

    def put(self, sample: int, hidden: SampleHidden) -> None:
        self._kept[sample] = hidden.detach().to("cpu", copy=True)

    def get(self, sample: int) -> SampleHidden:
        return self._kept[sample]

    def close(self) -> None:
        self._kept.clear()


class FileStore(BoundaryStore):
    """In a file that is removed when the store is closed.

    Args:
        path: The file.
        lengths: Tokens of every sample that will be kept.
        hidden_size: Features of a token.

    Raises:
        ConfigError: the disk is too full, or the file cannot be made.
    """

    def __init__(self, path: Path, lengths: Mapping[int, int], hidden_size: int) -> None:
        self._places = {sample: place for place, sample in enumerate(lengths)}
        self._file = ActivationStore(path, [(1, length, hidden_size) for length in lengths.values()], 1)
        self._types: dict[int, torch.dtype] = {}

    def __contains__(self, sample: int) -> bool:
        return sample in self._types

    def put(self, sample: int, hidden: SampleHidden) -> None:
        self._file.write(0, self._places[sample], 0, hidden.unsqueeze(0))
        self._types[sample] = hidden.dtype

    def get(self, sample: int) -> SampleHidden:
        return self._file.read(0, self._places[sample], 0, 1)[0].to(self._types[sample])

    def close(self) -> None:
        self._file.remove()


def size_bytes(lengths: Mapping[int, int], hidden_size: int) -> int:
    """Bytes of the hidden states of samples with so many tokens, at float32."""
    return sum(lengths.values()) * hidden_size * _WIDTH


def open_store(
    lengths: Mapping[int, int], hidden: Tensor, *, in_memory_bytes: int, at_most_bytes: int, path: Path | None
) -> BoundaryStore | None:
    """Choose where hidden states are kept.

    Args:
        lengths: Tokens of every sample that will be kept.
        hidden: A hidden state, for its width and type.
        in_memory_bytes: Up to here they stay in memory.
        at_most_bytes: Above this nothing is kept.
        path: File for larger ones; none keeps in memory or not at all.

    Returns:
        An empty store; none where they are too many, of a type that a file cannot hold, or the disk is too full.
    """
    needed = size_bytes(lengths, hidden.shape[-1])
    if needed > at_most_bytes:
        return None
    if needed <= in_memory_bytes:
        return MemoryStore()
    if path is None or hidden.dtype not in _KEPT_TYPES:
        return None
    try:
        return FileStore(path, lengths, hidden.shape[-1])
    except ConfigError:
        return None


class BoundaryShelf:
    """Stores in memory that several runs share: those whose batches come from one sequence and that start at one block.

    Whether a run has a store depends on the run alone, so that a race that goes on ends as one that was never stopped: where
    there is no room those go that were asked for the longest ago.

    Args:
        limit_bytes: What all of them may take together, at float32.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        #: By seed and cut, the one asked for last at the end.
        self._shelved: dict[tuple[int, int], _Shelved] = {}

    def store(self, seed: int, cut: int, lengths: Mapping[int, int], hidden_size: int) -> MemoryStore | None:
        """The store of a seed's sequence of batches at a cut, for these samples; none where they alone are over the limit."""
        if size_bytes(lengths, hidden_size) > self.limit_bytes:
            return None
        found = self._shelved.pop((seed, cut), None) or _Shelved()
        found.lengths.update(lengths)
        found.num_bytes = size_bytes(found.lengths, hidden_size)
        while self._shelved and found.num_bytes + sum(one.num_bytes for one in self._shelved.values()) > self.limit_bytes:
            self._shelved.pop(next(iter(self._shelved))).store.close()
        self._shelved[seed, cut] = found
        return found.store


@dataclass
class _Shelved:
    """A store on the shelf, and the tokens of the samples that it was asked for."""

    store: MemoryStore = field(default_factory=MemoryStore)
    lengths: dict[int, int] = field(default_factory=dict)
    num_bytes: int = 0
