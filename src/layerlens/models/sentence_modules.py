"""The modules of a sentence encoder behind its transformer: subfolders that `modules.json` names, some with weights of their own.

They belong to the model that a folder holds: a compressed folder has them as they are, and their bytes count.
"""

from __future__ import annotations

import json
from pathlib import Path

from layerlens.errors import CheckpointError
from layerlens.models.headers import TensorHeader, read_headers, tensor_bytes

#: Where a sentence encoder names its parts: the transformer (path "") and what comes behind it.
_MODULES_FILE = "modules.json"
#: Kinds of modules that hold weights.
_WITH_WEIGHTS = {"Dense", "LayerNorm", "WeightedLayerPooling", "CNN", "LSTM"}


def modules_behind(folder: Path) -> list[str]:
    """Subfolders that the `modules.json` of a sentence encoder names; none where there is no such file."""
    return sorted(_kinds(folder))


def tensors_behind(folder: Path) -> dict[str, TensorHeader]:
    """Headers of these modules' tensors, by their name behind the subfolder's: `2_Dense/linear.weight`.

    Raises:
        CheckpointError: a file cannot be read or is no whole safetensors file, or a module's weights are no safetensors.
    """
    kinds = _kinds(folder)
    for module, kind in kinds.items():
        if kind in _WITH_WEIGHTS and not any((folder / module).glob("*.safetensors")):
            raise CheckpointError(
                f"{folder / module} has no safetensors, and pickles are never taken, so what is made of this sentence encoder "
                f"would lack its {kind}; save it anew: SentenceTransformer(MODEL).save_pretrained(NEW_FOLDER)"
            )
    return {
        f"{module}/{name}": header
        for module in sorted(kinds)
        for file in sorted((folder / module).glob("*.safetensors"))
        for name, header in read_headers(file).items()
    }


def bytes_behind(folder: Path) -> int:
    """Bytes of these tensors.

    Raises:
        CheckpointError: a file is damaged, or a tensor is of a type of unknown width.
    """
    return tensor_bytes(tensors_behind(folder))


def _kinds(folder: Path) -> dict[str, str]:
    """Each such subfolder with the class of its module, as far as it is told."""
    try:
        entries = json.loads((folder / _MODULES_FILE).read_text(encoding="utf-8"))
        kinds = {str(entry["path"]): str(entry.get("type", "")).rpartition(".")[2] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: kind for name, kind in kinds.items() if name and Path(name).name == name and (folder / name).is_dir()}
