"""Opening a compressed folder lazily: its config, its matrices and its tensors' headers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerlens.compressing.folder_config import QUANTIZATION_KEY, StoredMatrix, original_config, read_matrices
from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import CONFIG_FILE, is_compressed, read_weights
from layerlens.models.headers import TensorHeader


@dataclass(frozen=True)
class CompressedFolder:
    """A compressed folder that has been looked at but not loaded.

    Attributes:
        folder: Where it is.
        config: The original's config.
        matrices: How each matrix is stored, by module path as the tensors have it.
        tensors: Headers of all tensors.
    """

    folder: Path
    config: dict[str, Any] = field(repr=False)
    matrices: dict[str, StoredMatrix] = field(repr=False)
    tensors: dict[str, TensorHeader] = field(repr=False)


def open_compressed(folder: Path) -> CompressedFolder:
    """Look at a compressed folder.

    Raises:
        CheckpointError: it is none, or a file is missing or damaged.
        ManifestError: it is of another version.
    """
    config = _read_json(folder / CONFIG_FILE)
    if not is_compressed(config):
        raise CheckpointError(f"{folder} was not compressed by LayerLens; give a folder that `layerlens compress` wrote")
    quantization = config[QUANTIZATION_KEY]
    faults: list[str] = []
    _, tensors = read_weights(folder, faults)
    if faults:
        raise CheckpointError.of(faults)
    matrices = read_matrices(quantization.get("version"), quantization.get("matrices", {}))
    return CompressedFolder(folder, original_config(config), matrices, tensors)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise CheckpointError(f"cannot read {path}: {reason}; copy or download the folder again") from error
    return content
