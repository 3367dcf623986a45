"""Whether a model is held in memory or streamed block by block: what the user says, else what fits comfortably."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from layerlens.config import ProfilingConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.devices import choose_device, free_device_bytes
from layerlens.profiling.calibration import samples_to_profile
from layerlens.profiling.sample_lengths import text_lengths
from layerlens.words import TaskKind

#: Interpreter and libraries.
_LIBRARIES = 600 << 20
#: Share of the free memory that the model and its statistics may take, and share of it that its batches may fill beside them.
_COMFORTABLE, _FULL = 0.5, 0.8
#: Patches of an image, about.
_IMAGE_TOKENS = 256
#: Tensors of the size of the logits that exist at once: logits and loss, and their gradients.
_LOGITS = 4


@dataclass(frozen=True)
class LargestBatch:
    """The most that runs through the model at once.

    Attributes:
        num_tokens: Padded tokens.
        num_logits: Outputs of the head for each of them; 0 where it reads one token of a sample.
    """

    num_tokens: int
    num_logits: int


def largest_batch(checkpoint: Checkpoint, data: LoadedData, part: Partition, config: ProfilingConfig) -> LargestBatch:
    """The largest batch of the pass over the samples that will be measured.

    Raises:
        DataError: fewer than two samples.
    """
    chosen = samples_to_profile(data.id, part.train, config.num_samples, config.seed)
    kind = data.task.info.kind
    is_text = kind is not TaskKind.IMAGE_CLASSIFICATION
    lengths = (text_lengths(data.take(chosen)) if is_text else None) or [_IMAGE_TOKENS]
    # The largest side of a language model's matrices is that of its table.
    sides = [max(header.shape) for header in checkpoint.tensors.values() if len(header.shape) == 2]
    return LargestBatch(
        num_tokens=min(config.batch_size, len(chosen)) * max(lengths),
        num_logits=max(sides, default=0) if kind is TaskKind.CAUSAL_LM else 0,
    )


def is_streamed(checkpoint: Checkpoint, config: ProfilingConfig, batch: LargestBatch, num_processes: int = 1) -> bool:
    """Whether to stream a model.

    Args:
        checkpoint: The model.
        config: What the user says.
        batch: The most that runs through it at once.
        num_processes: How many hold it in this machine's memory; `max_memory` caps each of them.

    Raises:
        ConfigError: the model shall be held in memory and cannot be within `max_memory`.
    """
    held = in_memory_bytes(checkpoint, config)
    needed = held + batch_bytes(checkpoint, batch)
    if config.execution == "memory":
        if config.max_memory is not None and needed > config.max_memory:
            raise ConfigError(
                f"--max-memory {config.max_memory / 2**20:,.0f} MiB is too little for this model in memory; the least that would "
                f"do is about {needed / 2**20:,.0f} MiB; leave out --execution memory to stream it"
            )
        return False
    if config.execution == "stream":
        return True

    def is_tight(free: int | None) -> bool:
        return free is not None and (held > free * _COMFORTABLE or needed > free * _FULL)

    free = available_bytes()
    if config.max_memory is not None:
        is_too_large = needed > config.max_memory
    else:
        is_too_large = is_tight(None if free is None else free // num_processes)
    return is_too_large or is_tight(free_device_bytes(choose_device(config.device)))


def in_memory_bytes(checkpoint: Checkpoint, config: ProfilingConfig) -> int:
    """About what a model and its statistics take: weights in float32, and for each matrix two gradients and two Grams.

    In bfloat16 also a rounded copy of each matrix, which autocast keeps for the pass.
    """
    total = _LIBRARIES
    copied = 2 if config.precision == "bf16" else 0
    for header in checkpoint.tensors.values():
        total += 4 * prod(header.shape)
        if _is_planned(header.shape):
            total += (8 + copied) * prod(header.shape) + 4 * sum(side**2 for side in header.shape)
    return total


def batch_bytes(checkpoint: Checkpoint, batch: LargestBatch) -> int:
    """About what a batch adds: what each matrix reads and gives is kept until its gradient has come, and so are the logits."""
    features = sum(sum(header.shape) for header in checkpoint.tensors.values() if _is_planned(header.shape))
    return 4 * batch.num_tokens * (features + _LOGITS * batch.num_logits)


def _is_planned(shape: tuple[int, ...]) -> bool:
    # A matrix many times higher than wide is an embedding table, which is not planned.
    return len(shape) == 2 and max(shape) <= 8 * min(shape)


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
