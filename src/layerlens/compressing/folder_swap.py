"""A whole folder takes the place of another one, so that whoever looks finds the old or the new, never a mixture.

Where the system and the disk can exchange two names (`renameat2` of Linux), in one step. Elsewhere the old folder steps aside
for a moment, under a name that the next run puts back where this one was killed just then.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_WORKING_FOLDER, _EXCHANGE = -100, 2


def swap(new: Path, old: Path, aside: Path) -> None:
    """Exchange the names of two folders on one disk.

    Args:
        new: Bears the old one's name afterwards.
        old: Bears the new one's name afterwards.
        aside: The old folder's name meanwhile, where it takes more than one step; bears nothing before and after.

    Raises:
        OSError: they cannot be renamed; both are where they were.
    """
    if _exchanged(new, old):
        return
    try:
        old.replace(aside)
        new.replace(old)
    except BaseException:
        put_back(old, aside)
        raise
    aside.replace(new)


def put_back(old: Path, aside: Path) -> None:
    """Give a folder its name again that a killed `swap` has left aside, where nothing has taken its place."""
    if aside.is_dir() and not (old.exists() and (not old.is_dir() or any(old.iterdir()))):
        aside.replace(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where that cannot be had, and for the caller's own renaming to say why."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (_AT_WORKING_FOLDER, os.fsencode(one), _AT_WORKING_FOLDER, os.fsencode(other))
    return bool(renameat2(*names, _EXCHANGE) == 0)
