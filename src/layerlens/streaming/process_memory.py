"""What the system tells of this process's memory, read in one place: `/proc/self/status` of Linux, nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")
_KIB = " kB"


def memory_told() -> dict[str, int]:
    """Bytes by the entries of `/proc/self/status`, all of one moment; none where the system does not tell.

    `VmRSS` is the resident set, `VmHWM` its high-water mark, `RssFile` the pages of mapped files in it.
    """
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    entries = (line.removesuffix(_KIB).split(":", 1) for line in lines if line.endswith(_KIB))
    return {name: int(value) * 1024 for name, value in entries}
