"""Letting go of program code that was read from disk and is not needed now: the system reads a page again when it is.

The code of torch is 350 MiB, of which importing it and building a model touch 80, and a pass over blocks 50. What was touched
counts as the process's memory until the system is short of it. Pages of code are the file's own, so nothing is lost with them.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(.*)")


@dataclass(frozen=True)
class CodeMapping:
    """A piece of a program file in memory: where it lies, how long it is in bytes, and whose it is."""

    start: int
    length: int
    file: str


#: Mappings that were looked at, and whether every page is the file's own. To look takes twenty times as long as to list them.
_IS_UNCHANGED: dict[CodeMapping, bool] = {}


def drop_code_pages() -> None:
    """Hand back the pages of every mapped program file; elsewhere than on Linux do nothing."""
    if sys.platform != "linux":
        return
    try:
        listed = code_mappings(_told("maps"))
        if any(mapping not in _IS_UNCHANGED for mapping in listed):
            _IS_UNCHANGED.update(code_mappings(_told("smaps")))
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for mapping in listed:
        if _IS_UNCHANGED.get(mapping, False):
            advise(mapping.start, mapping.length, mmap.MADV_DONTNEED)


def code_mappings(told: str) -> dict[CodeMapping, bool]:
    """Mappings of files that may be run and not written, and whether they are known to have no page but the file's.

    Args:
        told: What `/proc/PID/maps` or `/proc/PID/smaps` says; only the latter knows of pages.
    """
    found: dict[CodeMapping, bool] = {}
    last: CodeMapping | None = None
    for line in told.splitlines():
        if match := _MAPPING.match(line):
            start, end, rights, inode, path = int(match[1], 16), int(match[2], 16), match[3], match[4], match[5]
            last = CodeMapping(start, end - start, f"{inode} {path}") if rights[1:3] == "-x" and inode != "0" else None
            if last is not None:
                found[last] = False
        elif last is not None and line.startswith("Anonymous:"):
            found[last] = int(line.split()[1]) == 0
    return found


def _told(name: str) -> str:
    return Path(f"/proc/self/{name}").read_text(encoding="utf-8", errors="replace")
