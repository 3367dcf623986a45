"""A folder that `layerlens compress` wrote, opened lazily as a frozen base for the plans of its original."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import load_compression_plan
from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import CONFIG_FILE, Checkpoint, is_compressed, open_checkpoint, read_weights


@dataclass(frozen=True)
class CompressedCheckpoint(Checkpoint):
    """A compressed folder in place of its original: `id` and `hash()` are the original's, everything else is its own."""

    original_hash: str

    def hash(self) -> str:
        """Return the original's hash, as the folder's `plan.json` has it: by it, plans know their model."""
        return self.original_hash

    def stored_hash(self) -> str:
        """Return the hash of what is in the folder, by the rule of `Checkpoint.hash`."""
        return self._digest


def open_compressed_checkpoint(folder: Path) -> CompressedCheckpoint:
    """Look at a compressed folder; its original need not be at hand.

    Raises:
        CheckpointError: it is no such folder, or damaged.
        ManifestError: its `plan.json` is missing or damaged.
    """
    faults: list[str] = []
    config = _config_of(folder)
    if config is None:
        raise CheckpointError(f"{folder} was not written by `layerlens compress`; give a folder that was, of the plan's model")
    files, tensors = read_weights(folder, faults)
    if faults:
        raise CheckpointError.of(faults)
    original = load_compression_plan(folder).model
    return CompressedCheckpoint(
        id=original.id, folder=folder, config=config, files=tuple(files), tensors=tensors, original_hash=original.hash
    )


def open_base_checkpoint(model: str) -> Checkpoint:
    """Look at what adapters shall train over: a compressed folder, or what `open_checkpoint` takes."""
    folder = Path(model).expanduser()
    return open_checkpoint(model) if _config_of(folder) is None else open_compressed_checkpoint(folder)


def _config_of(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a compressed folder; none for anything else."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and is_compressed(config) else None
