"""Hidden states of all samples at some block boundaries, on disk: one file of equal slots, a slot for one boundary.

Plain reads and writes at an offset, so that nothing of it counts as the process's memory. Its whole length is reserved when it
is made: a disk that is too full says so at once, not an hour later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.errors import ConfigError, is_disk_full
from layerlens.models.streamed.tensor_reader import as_bytes

#: Hidden states at block boundaries, in the work folder of a run.
STATES_FILE = "activations.bin"

_WIDTH = 4  # bytes of a float32


def is_store_whole(path: Path, shapes: Sequence[tuple[int, int, int]], num_slots: int) -> bool:
    """Whether the store that an unfinished run left is still there in its full length."""
    return path.exists() and path.stat().st_size == num_slots * _slot_bytes(shapes)


def _slot_bytes(shapes: Sequence[tuple[int, int, int]]) -> int:
    return sum(samples * tokens * hidden * _WIDTH for samples, tokens, hidden in shapes)


class ActivationStore:
    """Slots of float32 hidden states [samples, tokens, hidden] for a list of batches.

    Args:
        path: The file; an existing one of the right length is opened with what it holds.
        shapes: (samples, tokens, hidden) of each batch.
        num_slots: Boundaries that it holds at once.

    Attributes:
        shapes: As given.

    Raises:
        ConfigError: the disk is too full, or the file cannot be made.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, int, int]], num_slots: int) -> None:
        self.path, self.shapes = path, list(shapes)
        self._offsets = [0]
        for samples, tokens, hidden in shapes:
            self._offsets.append(self._offsets[-1] + samples * tokens * hidden * _WIDTH)
        self.slot_bytes, self.num_slots = self._offsets[-1], num_slots
        self._descriptor = self._open(path, self.slot_bytes * num_slots)

    @staticmethod
    def _open(path: Path, num_bytes: int) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size != num_bytes:
                    os.ftruncate(descriptor, 0)
                    os.posix_fallocate(descriptor, 0, max(1, num_bytes))
                    os.ftruncate(descriptor, num_bytes)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ConfigError(_message(path, num_bytes, error)) from error
        return descriptor

    def write(self, slot: int, batch: int, start: int, values: Float[Tensor, "samples tokens hidden"]) -> None:
        """Write samples of a batch, from number `start` on.

        Raises:
            ConfigError: the disk is full or gone.
        """
        data = as_bytes(values.detach().float().contiguous().cpu())
        offset, done = self._offset(slot, batch, start), 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        except OSError as error:
            raise ConfigError(_message(self.path, self.slot_bytes * self.num_slots, error)) from error

    def read(self, slot: int, batch: int, start: int, stop: int) -> Float[Tensor, "samples tokens hidden"]:
        """Read samples `start` to `stop` of a batch.

        Raises:
            ConfigError: the file has become shorter or cannot be read.
        """
        values = torch.empty(stop - start, *self.shapes[batch][1:])
        self.read_into(slot, batch, start, values)
        return values

    def read_into(self, slot: int, batch: int, start: int, values: Float[Tensor, "samples tokens hidden"]) -> None:
        """Read samples of a batch, from number `start` on, into a contiguous float32 tensor on the host.

        Raises:
            ConfigError: as `read`.
        """
        data = as_bytes(values)
        offset, done = self._offset(slot, batch, start), 0
        try:
            while done < len(data):
                count = os.preadv(self._descriptor, [data[done:]], offset + done)
                if count == 0:
                    raise ConfigError(f"{self.path} has become shorter while it was in use; run the same command again")
                done += count
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror or error}; run the same command again") from error

    def close(self) -> None:
        """Close the file and leave it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _offset(self, slot: int, batch: int, start: int) -> int:
        _, tokens, hidden = self.shapes[batch]
        return slot * self.slot_bytes + self._offsets[batch] + start * tokens * hidden * _WIDTH


def _message(path: Path, num_bytes: int, error: OSError) -> str:
    """What to tell of a failed write."""
    if is_disk_full(error):
        return (
            f"the disk of {path.parent} is too full for the activations, {num_bytes / 2**20:,.0f} MiB; free some space, choose "
            "another output folder, or lower --max-store, --num-samples or --max-length"
        )
    return f"cannot write {path}: {error.strerror or error}; choose another output folder"
