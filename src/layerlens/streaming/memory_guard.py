"""The process's own peak memory, compared with a cap, and memory that is not needed handed back to the system."""

from __future__ import annotations

import ctypes
import resource
import sys

from layerlens.errors import ConfigError
from layerlens.models.lean_import import is_lean
from layerlens.streaming.code_pages import drop_code_pages

#: Interpreter, torch, transformers and the command line before any model: measured on Linux with the CPU build of torch.
BASE_BYTES = 440 << 20
#: The same where heavy imports are put off and program code that is not needed is let go.
_LEAN_BASE_BYTES = 256 << 20
#: The C library's name for the size from which memory comes straight from the system, and that size, bytes.
_M_MMAP_THRESHOLD, _LARGE_TENSOR = -3, 1 << 20


class MemoryGuard:
    """Watches the process's peak memory, and gives freed memory back to the system.

    Under a cap, large tensors are taken from the system and given back one by one: the C library would otherwise keep their
    memory for others of just that size.

    Args:
        max_memory: Cap in bytes; None to watch nothing.
    """

    def __init__(self, max_memory: int | None) -> None:
        self._max_memory = max_memory
        if max_memory is not None and sys.platform == "linux":
            self.return_large()
            self.trim()

    def check(self) -> None:
        """Stop a run that passed its cap.

        Raises:
            ConfigError: the peak is above the cap.
        """
        if self._max_memory is not None and (peak := peak_memory()) > self._max_memory:
            raise ConfigError(
                f"the process took {peak / 2**20:,.0f} MiB, above --max-memory {self._max_memory / 2**20:,.0f} MiB; "
                f"give it {-(-peak // 2**20) + 64:,} MiB or more"
            )

    @staticmethod
    def return_large() -> None:
        """Let large tensors of this process be given back one by one from now on, for more time in the system."""
        if sys.platform == "linux":
            set_option = getattr(ctypes.CDLL(None), "mallopt", None)
            if set_option is not None:
                set_option(_M_MMAP_THRESHOLD, _LARGE_TENSOR)

    @staticmethod
    def trim() -> None:
        """Hand memory that was freed back to the system, where the C library knows how, and program code with it."""
        MemoryGuard.give_back()
        drop_code_pages()

    @staticmethod
    def give_back() -> None:
        """Hand memory that was freed back to the system, where the C library knows how; in milliseconds."""
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)


def libraries_bytes() -> int:
    """What the libraries take of this process's memory before any model, about: the same in every process of the same kind."""
    return _LEAN_BASE_BYTES if is_lean() else BASE_BYTES


def peak_memory() -> int:
    """Highest resident set of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
