"""Seconds of training alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts seconds from its start on, but for those spent inside `stopped`."""

    def __init__(self) -> None:
        self._counted = 0.0
        self._running_since: float | None = None

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return self._counted + (0.0 if self._running_since is None else time.monotonic() - self._running_since)

    def start(self) -> None:
        """Count from now on."""
        self._running_since = time.monotonic()

    def add(self, seconds: float) -> None:
        """Count what an earlier process has trained."""
        self._counted += seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stand still inside the context."""
        self._counted, self._running_since = self.seconds, None
        try:
            yield
        finally:
            self.start()
