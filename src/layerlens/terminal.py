"""What a person sees in the terminal: progress bars and notes on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ItemT = TypeVar("ItemT")


class TerminalProgress:
    """Progress bars with time left on a terminal; one line per finished stage where there is none."""

    def __init__(self) -> None:
        # Names of files stand in what is printed: brackets and colons in them are no markup.
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bars = Progress(
            TextColumn("{task.description:<32}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def track(self, items: Iterable[ItemT], description: str, total: int | None = None) -> Iterator[ItemT]:
        """Yield the items while a bar with this description fills."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        if self._bars.disable:
            self._console.print(f"{description} …")
        task = self._bars.add_task(description, total=total)
        for item in items:
            yield item
            self._bars.advance(task)

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(text)
