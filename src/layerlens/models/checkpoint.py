"""Opening a checkpoint lazily: its config and its tensors' headers, checked before anything is loaded.

Only safetensors are read. A pickle may run any code while it loads, so a pickle-only checkpoint is refused and the
message says how to convert it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from layerlens.artifacts.store import sha256_of_file
from layerlens.errors import CheckpointError, few
from layerlens.models.headers import TensorHeader, read_headers
from layerlens.models.hub import fetch_snapshot, is_hub_id

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that has been looked at but not loaded."""

    id: str
    folder: Path
    config: dict[str, Any] = field(repr=False)
    files: tuple[Path, ...]
    tensors: dict[str, TensorHeader] = field(repr=False)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for file in (self.folder / CONFIG_FILE, *sorted(self.files)):
            digest.update(f"{file.name} {sha256_of_file(file)}\n".encode())
        return digest.hexdigest()

    def hash(self) -> str:
        """Return the sha256 over the names and contents of `config.json` and of every safetensors file, sorted by name."""
        return self._digest


def open_checkpoint(model: str) -> Checkpoint:
    """Look at a model folder, or fetch a hub id and look at it.

    Args:
        model: A folder (`~` is expanded) or a hub id, `name` or `owner/name`. Whatever exists here, has another form
            or starts with a dot, a slash or a tilde is a folder and never sent to the hub.

    Returns:
        The checkpoint with its config and the headers of its tensors.

    Raises:
        CheckpointError: no such model, no or damaged `config.json`, pickles only, a weight file cut short, or an
            index that does not fit its shards; all faults are named.
    """
    folder = _locate(model)
    faults: list[str] = []
    config = _read_config(folder, faults)
    files, tensors = read_weights(folder, faults)
    if not faults and not tensors:
        faults.append(f"{folder} holds safetensors files without a single tensor; copy or download it again")
    if faults:
        raise CheckpointError.of(faults)
    return Checkpoint(id=model, folder=folder, config=config, files=tuple(files), tensors=tensors)


def read_weights(folder: Path, faults: list[str]) -> tuple[list[Path], dict[str, TensorHeader]]:
    """Return a folder's weight files and the headers of their tensors, and append what is wrong with them to `faults`."""
    files, promised = _weight_files(folder, faults)
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        try:
            tensors |= read_headers(file)
        except CheckpointError as error:
            faults.append(str(error))
            # The fault of this file is told; that it lacks its tensors too would only repeat it.
            promised = {name: shard for name, shard in promised.items() if shard != file.name}
    faults.extend(_misplaced(folder, promised, tensors))
    return files, tensors


def _locate(model: str) -> Path:
    """Return the folder of a path or hub id."""
    if not model.strip():
        raise CheckpointError("the model is an empty name; give a folder or a hub id such as owner/name")
    if is_hub_id(model):
        return fetch_snapshot(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{model} is a file, not a model folder; give the folder that holds its {CONFIG_FILE}")
    raise CheckpointError(f"there is no folder {model}; give a folder with a {CONFIG_FILE}, or a hub id such as owner/name")


def _read_config(folder: Path, faults: list[str]) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if (folder / ADAPTER_FILE).exists():
        faults.append(f"{folder} holds a PEFT adapter ({ADAPTER_FILE}); give its base model, or merge the adapter first")
        return {}
    if not path.exists():
        faults.append(f"{folder} has no {CONFIG_FILE}; give the folder of a Hugging Face model")
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is empty or no JSON"
        faults.append(f"cannot read {path}: {reason}; copy or download it again")
        return {}
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str) or not config["model_type"]:
        faults.append(f"{path} names no model_type, so the architecture is unknown; use the config the model was saved with")
        return {}
    if is_compressed(config):
        faults.append(f"{folder} was compressed by LayerLens; give its original, or write it out with `layerlens export --dense`")
    elif config.get("transformers_weights"):
        faults.append(
            f"{path} names weights of its own ({config['transformers_weights']!r}); save the model anew as {WEIGHTS_FILE}"
        )
    return config


def is_compressed(config: dict[str, Any]) -> bool:
    """Whether a config is of a folder that LayerLens compressed."""
    quantisation = config.get("quantization_config")
    return isinstance(quantisation, dict) and quantisation.get("quant_method") == "layerlens"


def _weight_files(folder: Path, faults: list[str]) -> tuple[list[Path], dict[str, str]]:
    """Return the weight files that exist, and the shard that an index promises for each tensor."""
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE], {}
    index = folder / INDEX_FILE
    if not index.exists():
        faults.append(_without_weights(folder))
        return [], {}
    try:
        promised: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(promised.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        faults.append(f"cannot read {index} ({type(error).__name__}: {error}); copy or download it again")
        return [], {}
    if outside := [shard for shard in shards if PurePosixPath(shard).name != shard]:
        faults.append(f"{index} names files outside its folder: {few(outside)}; do not trust this checkpoint")
        return [], {}
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        faults.append(f"{index} names shards that are not there: {few(missing)}; copy or download them")
    present = [folder / shard for shard in shards if shard not in missing]
    return present, {name: shard for name, shard in promised.items() if shard not in missing}


def _without_weights(folder: Path) -> str:
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        return (
            f"{folder} holds its weights as pickles only ({few(pickles)}), which can run code and are never loaded; where you "
            "trust them, convert: AutoModel.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW_FOLDER)"
        )
    return f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; give the folder of a model saved as safetensors"


def _misplaced(folder: Path, promised: dict[str, str], tensors: dict[str, TensorHeader]) -> list[str]:
    """Return a fault for each shard that lacks tensors which the index says it has."""
    absent: dict[str, list[str]] = {}
    for name, shard in promised.items():
        if name not in tensors or tensors[name].file.name != shard:
            absent.setdefault(shard, []).append(name)
    return [
        f"{folder / shard} lacks {len(names)} tensors that {INDEX_FILE} names ({few(names)}); it is a shard of another model"
        for shard, names in sorted(absent.items())
    ]
