"""Samples that are encoded when somebody asks for them, so that 512 samples of a huge set cost 512 encodings."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from layerlens.data.example import Example
from layerlens.data.token_ids import TokenIds


class Encoder(ABC):
    """Turns rows of a source into examples; knows how many there are without encoding any."""

    max_cached: int | None = None
    """Examples kept once encoded; all of them if None."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def encode(self, rows: Sequence[int]) -> list[Example]:
        """Encode rows, in the order given; one call of the tokenizer for all of them where that is faster."""

    @abstractmethod
    def source(self, row: int) -> bytes:
        """What a row is encoded from, its label included: tells that data have changed, and encodes nothing."""


class LazyExamples(Sequence[Example]):
    """Examples of an encoder as a sequence: encoded on first access, then kept.

    Use `take` for many at once: one batched call of the tokenizer in place of one call for each. Past the encoder's
    `max_cached` examples (images are big) nothing more is kept, and the rest is encoded at each access.

    Args:
        encoder: Encodes them.
        token_ids: Looks at every example that was encoded; None to take all.
    """

    def __init__(self, encoder: Encoder, token_ids: TokenIds | None = None) -> None:
        self._encoder, self._token_ids = encoder, token_ids
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._encoder)

    def __getitem__(self, index: Any) -> Any:
        """Return one example, or a list of them for a slice."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self.take([range(len(self))[index]])[0]

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Return the examples at `indices`, in that order, encoding the missing ones in one go.

        Raises:
            DataError: an example has a token that the model has no embedding for.
        """
        missing = sorted({index for index in indices if index not in self._kept})
        fresh = dict(zip(missing, self._encoder.encode(missing))) if missing else {}
        if self._token_ids is not None:
            self._token_ids.check(fresh.values())
        limit = self._encoder.max_cached
        room = len(fresh) if limit is None else max(0, limit - len(self._kept))
        self._kept.update(list(fresh.items())[:room])
        return [fresh[index] if index in fresh else self._kept[index] for index in indices]

    def source_hash(self, indices: Sequence[int]) -> str:
        """Hash what the examples at `indices` are encoded from, in that order; none is encoded."""
        digest = hashlib.sha256()
        for index in indices:
            content = self._encoder.source(index)
            digest.update(b"%d\0" % len(content))
            digest.update(content)
        return digest.hexdigest()

    @property
    def num_kept(self) -> int:
        """How many examples have been encoded and kept so far."""
        return len(self._kept)
