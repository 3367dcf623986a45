"""Progress that a stage reports without knowing who watches: a terminal, a log or nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

ItemT = TypeVar("ItemT")


@runtime_checkable
class Progress(Protocol):
    """What a stage may tell its watcher."""

    def track(self, items: Iterable[ItemT], description: str, total: int | None = None) -> Iterator[ItemT]:
        """Yield the items, showing how far along they are."""
        ...

    def note(self, text: str) -> None:
        """Say one thing worth knowing."""
        ...


class Silent:
    """Nobody watches."""

    def track(self, items: Iterable[ItemT], description: str, total: int | None = None) -> Iterator[ItemT]:
        yield from items

    def note(self, text: str) -> None:
        return None


SILENT = Silent()
