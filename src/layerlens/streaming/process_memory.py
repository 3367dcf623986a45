"""What the system tells of this process's memory, read in one place: `/proc/self/status` of Linux, nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def memory_told(name: str) -> int | None:
    """Bytes of an entry of `/proc/self/status`.

    Args:
        name: `VmRSS` for the resident set, `VmHWM` for its high-water mark, `RssFile` for the pages of mapped files in it.

    Returns:
        None where the system does not tell.
    """
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
