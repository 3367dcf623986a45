"""The modules of a sentence encoder behind its transformer: subfolders that `modules.json` names, some with weights of their own.

They belong to the model that a folder holds: a compressed folder has them as they are, and their bytes count.
"""

from __future__ import annotations

import json
from pathlib import Path

from layerlens.models.headers import TensorHeader, read_headers, tensor_bytes

#: Where a sentence encoder names its parts: the transformer (path "") and what comes behind it.
_MODULES_FILE = "modules.json"


def modules_behind(folder: Path) -> list[str]:
    """Subfolders that the `modules.json` of a sentence encoder names; none where there is no such file."""
    try:
        entries = json.loads((folder / _MODULES_FILE).read_text(encoding="utf-8"))
        names = [str(entry["path"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(name for name in names if name and Path(name).name == name and (folder / name).is_dir())


def tensors_behind(folder: Path) -> dict[str, TensorHeader]:
    """Headers of these modules' tensors, by their name behind the subfolder's: `2_Dense/linear.weight`.

    Raises:
        CheckpointError: a file cannot be read or is no whole safetensors file.
    """
    return {
        f"{module}/{name}": header
        for module in modules_behind(folder)
        for file in sorted((folder / module).glob("*.safetensors"))
        for name, header in read_headers(file).items()
    }


def bytes_behind(folder: Path) -> int:
    """Bytes of these tensors.

    Raises:
        CheckpointError: a file is damaged, or a tensor is of a type of unknown width.
    """
    return tensor_bytes(tensors_behind(folder))
