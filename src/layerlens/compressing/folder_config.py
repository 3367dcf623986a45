"""What `config.json` of a compressed folder says: which matrices are stored how, and how to load them.

    quantization_config      {quant_method: "layerlens", version, matrices: {module: {scheme, out_features, in_features, …}}}
    transformers_weights     no file's name but a sentence: without LayerLens transformers stops at it and shows it
    torch_dtype              the same sentence, for transformers before 4.56; later ones read dtype

transformers only warns of a `quant_method` that it does not know, and would go on with random weights. A `transformers_weights`
that names no weight file makes it raise instead, before anything is loaded; LayerLens's quantiser takes the sentence away first.
Versions without that key, before 4.53, take `torch_dtype` for the name of a type, and raise where torch has none of that name;
since 4.56 it is passed over where `dtype` is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from layerlens.artifacts.formats import Scheme
from layerlens.artifacts.store import faults_of, write_bytes
from layerlens.errors import ManifestError
from layerlens.models.checkpoint import is_compressed
from layerlens.words import Frozen

QUANT_METHOD, VERSION = "layerlens", 1
WEIGHTS_KEY, QUANTIZATION_KEY = "transformers_weights", "quantization_config"
TYPE_KEY, OLD_TYPE_KEY = "dtype", "torch_dtype"
LOADING_HINT = (
    "this folder was compressed by LayerLens; run `pip install layerlens-plan`, and `import layerlens` before from_pretrained"
)
#: Keys where a version of transformers stops at the sentence.
_HINTS = {WEIGHTS_KEY: LOADING_HINT, OLD_TYPE_KEY: LOADING_HINT}


class StoredMatrix(Frozen):
    """How one matrix of the folder is stored."""

    scheme: Scheme
    out_features: int = Field(gt=0)
    in_features: int = Field(gt=0)
    is_transposed: bool = Field(default=False, description="the original is [in_features out_features]: GPT-2's Conv1D")


def folder_config(config: Mapping[str, Any], matrices: Mapping[str, StoredMatrix], dtype: str) -> dict[str, Any]:
    """The config of a compressed folder.

    Args:
        config: The original's `config.json`.
        matrices: By module path as the original's tensors have it.
        dtype: Type of the original's weights, where its config names none.
    """
    dumped = {path: matrix.model_dump(mode="json", exclude_defaults=True) for path, matrix in matrices.items()}
    quantization = {"quant_method": QUANT_METHOD, "version": VERSION, "matrices": dumped}
    named = config.get(TYPE_KEY) or config.get(OLD_TYPE_KEY) or dtype
    return {**config, TYPE_KEY: named, QUANTIZATION_KEY: quantization, **_HINTS}


def original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `folder_config`, but for the type, which stays named as transformers names it now."""
    added = {QUANTIZATION_KEY, WEIGHTS_KEY} | ({OLD_TYPE_KEY} if config.get(TYPE_KEY) else set())
    return {key: value for key, value in config.items() if key not in added}


def is_compressed_folder(folder: str | Path) -> bool:
    """Whether a folder was written by `layerlens compress`."""
    try:
        config = json.loads((Path(folder).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and is_compressed(config)


def read_matrices(version: Any, matrices: Mapping[str, Any]) -> dict[str, StoredMatrix]:
    """Read `quantization_config`.

    Raises:
        ManifestError: it is of another version, or does not say how a matrix is stored.
    """
    if version != VERSION:
        raise ManifestError(f"the folder was compressed in version {version} of the format, this LayerLens reads {VERSION}")
    read, faults = {}, []
    for path, entry in matrices.items():
        try:
            read[path] = StoredMatrix.model_validate(entry)
        except ValidationError as error:
            faults += [f"{QUANTIZATION_KEY}, {path}: {fault}" for fault in faults_of(error)]
    if faults:
        raise ManifestError.of([*faults[:3], "use the config.json that the folder was written with"])
    return read


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a `config.json`.

    Published ones hold `Infinity` (the `time_step_limit` of Mamba-2 and its hybrids), which transformers reads and JSON lacks.

    Raises:
        ConfigError: it cannot be written.
    """
    write_bytes(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def restore_hint(path: Path, saved: Mapping[str, str]) -> None:
    """Put what transformers leaves out back into a `config.json` that it has written.

    Args:
        path: Of a compressed model's folder.
        saved: Module path as the folder's tensors have it, by its path in the model, which the config was written with.

    Raises:
        ConfigError: it cannot be written.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    quantization = config[QUANTIZATION_KEY]
    matrices = {saved.get(place, place): entry for place, entry in quantization["matrices"].items()}
    restored = {**config, QUANTIZATION_KEY: {**quantization, "matrices": matrices}, **_HINTS}
    write_bytes(path, (json.dumps(restored, indent=2, sort_keys=True) + "\n").encode())
