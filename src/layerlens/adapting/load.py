"""Reading a PEFT folder back: what its base is, and the model with the adapter on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from layerlens.adapting.lora import peft_warnings_hidden
from layerlens.adapting.save import CONFIG_FILE
from layerlens.errors import ManifestError
from layerlens.models.foreign import one_line
from layerlens.models.load import TaskModel

WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class AdapterFolder:
    """A PEFT folder that has been looked at but not loaded."""

    folder: Path
    base_model: str
    config: dict[str, Any]


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter rather than a model."""
    return (folder / CONFIG_FILE).is_file()


def open_adapter(folder: Path) -> AdapterFolder:
    """Look at a PEFT folder.

    Raises:
        ManifestError: no PEFT folder, a damaged one, or one whose weights are a pickle.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{folder} holds no readable {CONFIG_FILE}; give a folder that PEFT or `layerlens tune` wrote"
        ) from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    faults = []
    if not isinstance(base, str) or not base:
        faults.append(f"{folder / CONFIG_FILE} names no base model; add base_model_name_or_path")
    if not (folder / WEIGHTS_FILE).is_file():
        faults.append(f"{folder} holds no {WEIGHTS_FILE}; pickled adapters are not loaded, save it as safetensors")
    if faults:
        raise ManifestError.of(faults)
    return AdapterFolder(folder, str(base), config)


def load_adapter(adapter: AdapterFolder, task_model: TaskModel) -> PeftModel:
    """Put a saved adapter on its base model, in evaluation mode. The base model is changed in place.

    Raises:
        ManifestError: the adapter does not fit the model.
    """
    try:
        with peft_warnings_hidden():
            adapted = PeftModel.from_pretrained(task_model.model, str(adapter.folder))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{adapter.folder} does not fit {task_model.checkpoint.id} as {type(task_model.model).__name__} ({one_line(error)}); "
            "give the base model and the task that it was trained for"
        ) from error
    adapted.eval()
    return adapted
