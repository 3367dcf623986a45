"""A model's weights on disk while the model is trained, and back in their places to the bit.

One tensor at a time, by plain writes and reads, so that nothing of the copy counts as the process's memory. The file has no
name from the start: however the process ends, nothing is left of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from layerlens.errors import ConfigError, is_disk_full
from layerlens.models.streamed.tensor_reader import as_bytes


@contextmanager
def kept_on_disk(model: nn.Module, folder: Path) -> Iterator[None]:
    """Let the weights of `model` be changed inside the context; afterwards they are what they were.

    Args:
        model: Its parameters and saved buffers are kept, tied ones once; they are written back in place, so ties hold.
        folder: Of the disk that holds them meanwhile; made where it is not there.

    Raises:
        ConfigError: the disk is too full, the folder cannot be written to, or the copy cannot be read back.
    """
    kept = _tensors(model)
    num_bytes = sum(tensor.nbytes for tensor in kept.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed below
    except OSError as error:
        raise ConfigError(_message(folder, num_bytes, error)) from error
    with file:
        try:
            for tensor in kept.values():
                file.write(as_bytes(tensor.detach().contiguous().cpu()))
            file.flush()
        except OSError as error:
            raise ConfigError(_message(folder, num_bytes, error)) from error
        try:
            yield
        finally:
            file.seek(0)
            now = _tensors(model)
            with torch.no_grad():
                for name, tensor in kept.items():
                    found = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if file.readinto(as_bytes(found)) != found.nbytes:
                        raise ConfigError(
                            f"the weights kept in {folder} cannot be read back; check the disk, and load the model again"
                        )
                    now[name].copy_(found)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a checkpoint of `model` would hold, by the first of its names."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _message(folder: Path, num_bytes: int, error: OSError) -> str:
    if is_disk_full(error):
        return (
            f"the disk of {folder} is too full to keep the model's weights while they train, {num_bytes / 2**20:,.0f} MiB; free "
            "some space, or choose another output folder"
        )
    return f"cannot write to {folder}: {error.strerror or error}; choose another output folder"
