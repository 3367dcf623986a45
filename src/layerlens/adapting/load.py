"""Reading an adapter folder back: what its base is, and the model with the adapter on."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from layerlens.adapting.base_in_memory import checkpoint_of
from layerlens.adapting.base_record import BaseRecord, check_stored, other_form, read_base
from layerlens.adapting.lora import peft_warnings_hidden
from layerlens.adapting.save import ADAPTER_FOLDER, BASE_HASH, CONFIG_FILE, TRAINED_FOR, WEIGHTS_FILE, TrainedFor
from layerlens.adapting.sidecar import Sidecar, disable_together_, load_sites_, read_sidecar, refuse_to_lose_
from layerlens.adapting.site_modules import check_sites
from layerlens.adapting.stored_lora import STORED_LORA
from layerlens.artifacts.plan import load_plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import faults_of
from layerlens.config import BaseFormat
from layerlens.errors import CheckpointError, ConfigError, ManifestError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.compressed_checkpoint import CompressedCheckpoint, open_base_checkpoint
from layerlens.models.foreign import one_line
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.quantised_base import densify_, held_format
from layerlens.models.weights import StoredLinear

log = logging.getLogger(__name__)

#: What `layerlens tune` leaves beside the adapter.
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter folder that has been looked at but not loaded.

    Attributes:
        folder: Where it is.
        base_model: Folder or hub id of its base.
        config: PEFT's config of its LoRA and head.
        base_hash: Hash of its base; none where nothing tells it.
        trained_for: Its task, and how its samples were shared out; none in folders of older versions and of PEFT.
        sidecar: Its bottlenecks and prefixes; none for a plain PEFT folder.
        base: What it was trained over, where that is not the model in its own numbers.
    """

    folder: Path
    base_model: str
    config: dict[str, Any]
    base_hash: str | None = None
    trained_for: TrainedFor | None = None
    sidecar: Sidecar | None = None
    base: BaseRecord | None = None

    @property
    def base_format(self) -> BaseFormat:
        """How a library held the base."""
        return BaseFormat.AS_IS if self.base is None else self.base.base_format


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter rather than a model."""
    return (folder / CONFIG_FILE).is_file()


def adapter_in(folder: Path) -> Path | None:
    """The adapter that a folder is or that `layerlens tune` left in it; none where there is none."""
    return next((found for found in (folder, folder / ADAPTER_FOLDER) if is_adapter(found)), None)


def open_adapter(folder: Path) -> AdapterFolder:
    """Look at an adapter folder.

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
    sidecar = read_sidecar(folder)
    if sidecar is None and " " in str(config.get("peft_type")):
        raise ManifestError(f"{folder} lacks its bottlenecks and prefixes ({config['peft_type']}); copy the whole folder again")
    base_hash, trained_for = _told(folder / WEIGHTS_FILE)
    if sidecar is not None:
        base_hash = sidecar.base_hash
    return AdapterFolder(folder, str(base), config, base_hash, trained_for, sidecar, read_base(folder))


def load_adapter(adapter: AdapterFolder, task_model: TaskModel) -> PeftModel:
    """Put a saved adapter on its base model, in evaluation mode. The base model is changed in place.

    A base in another form than the one that was trained over (in few bits, or no longer so) is warned of and taken.

    Raises:
        ManifestError: the adapter was trained on another base, or does not fit the model.
        UnsupportedModelError: an attention of this model cannot have a prefix.
    """
    _check_base(adapter, task_model.checkpoint)
    if (differs := other_form(adapter.base, task_model)) is not None:
        log.warning("%s was %s: its logits are not those that were trained", adapter.folder, differs)
    if adapter.sidecar is not None:
        check_sites(adapter.sidecar.sites, task_model.model)
    is_stored = any(isinstance(module, StoredLinear) for module in task_model.model.modules())
    if is_stored:
        # A base that the user loaded may still hold its head in stored form.
        densify_(task_model.model, adapter.config.get("modules_to_save") or [])
    options = {"config": _lora_config(adapter)} if is_stored or adapter.sidecar is not None else {}
    try:
        with peft_warnings_hidden():
            adapted = PeftModel.from_pretrained(task_model.model, str(adapter.folder), **options)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{adapter.folder} does not fit {task_model.checkpoint.id} as {type(task_model.model).__name__} ({one_line(error)}); "
            "give the base model and the task that it was trained for"
        ) from error
    if adapter.sidecar is not None:
        load_sites_(adapter.folder, adapter.sidecar, task_model.model)
        disable_together_(adapted)
        refuse_to_lose_(adapted, adapter.sidecar)
    adapted.eval()
    return adapted


def load_adapted(folder: str | Path, model: str | Path | nn.Module | None = None) -> PeftModel:
    """Load what `layerlens tune` trained, of whatever methods, on its base model.

    Args:
        folder: The output folder of `tune`, or the `adapter/` in it.
        model: The base model: its folder or hub id where it is not where it was, or the model itself, loaded for the
            adapter's task with `from_pretrained`; it is changed in place. If not given, the base that the adapter names.

    Returns:
        The model with LoRA, bottlenecks, prefixes and trained head, in evaluation mode, its logits those that were trained.

    Raises:
        ManifestError: no adapter, a damaged one, or one of another base.
        CheckpointError: the base is not there.
        ConfigError: nothing tells the task that the base shall be loaded for, or the model is none of transformers'.
    """
    if isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        raise ConfigError(f"a {type(model).__name__} is no base model; load that anew with from_pretrained, or give its folder")
    found = adapter_in(Path(folder).expanduser())
    if found is None:
        raise ManifestError(f"{folder} holds no adapter; give the output folder of `layerlens tune`, or a PEFT folder")
    adapter = open_adapter(found)
    if isinstance(model, PreTrainedModel):
        return load_adapter(adapter, TaskModel(model, (), checkpoint_of(model), base_format=held_format(model)))
    if (task := told_task(adapter)) is None:
        raise ConfigError(
            f"nothing beside {found} tells its task; load the base model for it, with its number of labels, and give it as model"
        )
    return load_adapter(adapter, load_base(adapter, base_checkpoint(adapter, model), task, seed=0))


def load_base(adapter: AdapterFolder, checkpoint: Checkpoint, task: TaskInfo, *, seed: int) -> TaskModel:
    """Load what an adapter was trained over, in the form that it had then."""
    is_stored = isinstance(checkpoint, CompressedCheckpoint)
    return load_task_model(checkpoint, task, seed=seed, base_format=BaseFormat.AS_IS if is_stored else adapter.base_format)


def told_task(adapter: AdapterFolder) -> TaskInfo | None:
    """The task that an adapter was trained for, from the adapter or the plan beside it; none where neither tells."""
    told = adapter.sidecar or adapter.trained_for
    if told is not None:
        return told.task
    plan = adapter.folder.parent / PLAN_FILE
    return load_plan(plan).task if plan.is_file() else None


def _check_base(adapter: AdapterFolder, checkpoint: Checkpoint) -> None:
    if adapter.base_hash is not None and (found := checkpoint.hash()) != adapter.base_hash:
        raise ManifestError(
            f"{adapter.folder} was trained on another base model: {adapter.base_model} with hash {adapter.base_hash[:12]}, "
            f"{checkpoint.id} has {found[:12]}; give the base that it was trained on"
        )


def _lora_config(adapter: AdapterFolder) -> LoraConfig:
    """PEFT's config with the method that PEFT knows in place of the sentence that stops it."""
    config = LoraConfig.from_peft_type(**{**adapter.config, "peft_type": "LORA"})
    config._register_custom_module(STORED_LORA)
    return config


def _told(weights: Path) -> tuple[str | None, TrainedFor | None]:
    """What the metadata of an adapter's weights tell: the hash of its base, and what it was trained for."""
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"cannot read {weights}: {error}; copy the folder again") from error
    try:
        trained_for = TrainedFor.model_validate_json(metadata[TRAINED_FOR]) if TRAINED_FOR in metadata else None
    except ValidationError as error:
        raise ManifestError(f"{weights} is damaged: {'; '.join(faults_of(error))}; copy the folder again") from error
    return metadata.get(BASE_HASH), trained_for


def base_checkpoint(adapter: AdapterFolder, model: str | Path | None = None) -> Checkpoint:
    """Look at an adapter's base: what it was trained over, or `model` in its place.

    Raises:
        CheckpointError: it is not there, or damaged.
        ManifestError: the compressed folder that it was trained over holds something else now.
    """
    try:
        checkpoint = open_base_checkpoint(adapter.base_model if model is None else str(model))
        if model is None and adapter.base is not None and isinstance(checkpoint, CompressedCheckpoint):
            check_stored(adapter.base, checkpoint)
        return checkpoint
    except CheckpointError as error:
        hint = f"; {adapter.folder} names it as its base: give the base's new place" if model is None else ""
        raise CheckpointError(f"{error}{hint}") from error
