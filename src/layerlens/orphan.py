"""A process that leaves when whoever started it is gone: an orphan would go on working where the next call works already."""

from __future__ import annotations

import os
import threading
import time

_WATCH_SECONDS = 0.5
EXIT_CODE = 1


def leave_with(parent: int) -> None:
    """Watch the parent from now on, and end this process when it is not `parent` any more.

    Args:
        parent: The process that started this one, as it said itself: by the time this one looks, it may be gone.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(EXIT_CODE)
