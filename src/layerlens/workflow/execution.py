"""Whether a model is held in memory or streamed block by block: what the user says, else what fits comfortably."""

from __future__ import annotations

from math import prod
from pathlib import Path

from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.devices import choose_device, free_device_bytes

#: Interpreter and libraries, and what a pass over small batches adds to the model itself.
_LIBRARIES = 600 << 20
#: Share of the free memory that counts as comfortable.
_COMFORTABLE = 0.5


def is_streamed(checkpoint: Checkpoint, config: ProfilingConfig) -> bool:
    """Whether to stream a model.

    Raises:
        ConfigError: the model shall be held in memory and cannot be within `max_memory`.
    """
    needed = in_memory_bytes(checkpoint, config)
    if config.execution == "memory":
        if config.max_memory is not None and needed > config.max_memory:
            raise ConfigError(
                f"--max-memory {config.max_memory / 2**20:,.0f} MiB is too little for this model in memory; the least that would "
                f"do is about {needed / 2**20:,.0f} MiB; leave out --execution memory to stream it"
            )
        return False
    if config.execution == "stream":
        return True
    free = available_bytes()
    limit = config.max_memory if config.max_memory is not None else None if free is None else int(free * _COMFORTABLE)
    if limit is not None and needed > limit:
        return True
    free = free_device_bytes(choose_device(config.device))
    return free is not None and needed > free * _COMFORTABLE


def in_memory_bytes(checkpoint: Checkpoint, config: ProfilingConfig) -> int:
    """About what profiling in memory takes: weights in float32, and for each matrix two gradients and two Grams.

    In bfloat16 also a rounded copy of each matrix, which autocast keeps for the pass.
    """
    total = _LIBRARIES
    copied = 2 if config.precision == "bf16" else 0
    for header in checkpoint.tensors.values():
        total += 4 * prod(header.shape)
        # A matrix many times higher than wide is an embedding table, which is not planned.
        if len(header.shape) == 2 and max(header.shape) <= 8 * min(header.shape):
            total += (8 + copied) * prod(header.shape) + 4 * sum(side**2 for side in header.shape)
    return total


def available_bytes() -> int | None:
    """Memory that can be had without swapping, within the limits of the process's group; None where the system does not say."""
    found = [_meminfo("MemAvailable"), _cgroup_free()]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _meminfo(key: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_free() -> int | None:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None
