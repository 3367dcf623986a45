"""Loading a checkpoint as the model of a task, and knowing exactly which of its parameters are random.

transformers fills whatever a checkpoint lacks with random numbers and only reports it. Here that is allowed in the
task head and the pooler alone, and named in `TaskModel.new_parameters`; a body with random parameters is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import sha256_of_json
from layerlens.config import BaseFormat
from layerlens.errors import CheckpointError, LayerLensError, UnsupportedModelError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.compressed_checkpoint import CompressedCheckpoint
from layerlens.models.foreign import class_for, one_line, quiet
from layerlens.models.loaded_checks import check_body, check_decoder, check_embedder, check_finite
from layerlens.models.processor import load_processor
from layerlens.models.quantised_base import check_library, densify_, not_planned, plain_tensors, quantization_config, settle_
from layerlens.models.roles import describe_layers
from layerlens.models.tree import find_head
from layerlens.words import TaskKind

#: Task -> class that loads it; looked up by name, for each import of a class costs time.
AUTO_CLASSES = {
    TaskKind.CLASSIFICATION: "AutoModelForSequenceClassification",
    TaskKind.PAIR_CLASSIFICATION: "AutoModelForSequenceClassification",
    TaskKind.REGRESSION: "AutoModelForSequenceClassification",
    TaskKind.CAUSAL_LM: "AutoModelForCausalLM",
    TaskKind.IMAGE_CLASSIFICATION: "AutoModelForImageClassification",
    TaskKind.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    TaskKind.EMBEDDING: "AutoModel",
}
LABELLED = {TaskKind.CLASSIFICATION, TaskKind.PAIR_CLASSIFICATION, TaskKind.IMAGE_CLASSIFICATION}


@dataclass
class TaskModel:
    """A pretrained model with the head of a task."""

    model: PreTrainedModel
    new_parameters: tuple[str, ...]
    checkpoint: Checkpoint
    base_format: BaseFormat = field(default=BaseFormat.AS_IS, kw_only=True)

    @property
    def is_quantised(self) -> bool:
        """Whether the base is held in another form than the checkpoint that plans know."""
        return self.base_format is not BaseFormat.AS_IS or isinstance(self.checkpoint, CompressedCheckpoint)

    @property
    def identity(self) -> str:
        """What a run's outcome depends on: the checkpoint's hash, and the form that the base is held in where it is another."""
        if not self.is_quantised:
            return self.checkpoint.hash()
        stored = self.checkpoint.stored_hash() if isinstance(self.checkpoint, CompressedCheckpoint) else None
        return sha256_of_json({"model": self.checkpoint.hash(), "base_format": self.base_format.value, "stored": stored})


def load_task_model(
    checkpoint: Checkpoint,
    task: TaskInfo,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    base_format: BaseFormat = BaseFormat.AS_IS,
) -> TaskModel:
    """Load a checkpoint as a model of `task`, in eval mode.

    A head that the checkpoint lacks, or has for another number of labels, is drawn anew from `seed` alone: the same
    seed gives the same head whatever ran before, and the global random state is left as it was.

    Args:
        checkpoint: An opened checkpoint.
        task: What the model shall do; its labels become the model's.
        seed: Seed of the new parameters.
        dtype: Type of all parameters.
        base_format: How the layers that plans adapt are held. A compressed folder has a form of its own; a head that it stores is
            decoded, for heads are trained.

    Returns:
        The model, the names of its new parameters in the model's order, and the checkpoint.

    Raises:
        CheckpointError: body parameters are missing or of another shape, or a value is NaN or infinite.
        ConfigError: the library that `base_format` needs is not installed.
        UnsupportedModelError: transformers does not know the architecture, it has no such task, or it needs code or
            packages of its own.
    """
    check_library(base_format)
    with _loading(checkpoint, seed):
        quantised = None if base_format is BaseFormat.AS_IS else _Quantised(checkpoint, task, base_format)
        model, new = _build(checkpoint, task, dtype, quantised=quantised)
        if isinstance(checkpoint, CompressedCheckpoint):
            densify_(model, find_head(model))
        check_finite(checkpoint, dict(plain_tensors(model.state_dict())))
        if task.kind is TaskKind.CAUSAL_LM:
            check_decoder(checkpoint, model)
        elif task.kind is TaskKind.EMBEDDING:
            check_embedder(checkpoint, model)
    return TaskModel(model=model, new_parameters=new, checkpoint=checkpoint, base_format=base_format)


def load_with_placeholders(checkpoint: Checkpoint, task: TaskInfo, state: Mapping[str, Tensor], *, seed: int) -> TaskModel:
    """Load a model like `load_task_model`, from a state dict whose matrices may be placeholders of the right shape.

    Nothing that depends on the values of the weights is checked.
    """
    with _loading(checkpoint, seed):
        model, new = _build(checkpoint, task, torch.float32, state)
    return TaskModel(model=model, new_parameters=new, checkpoint=checkpoint)


@contextmanager
def _loading(checkpoint: Checkpoint, seed: int) -> Iterator[None]:
    """Refuse what cannot be loaded; then keep transformers quiet and draw from `seed` alone, until the context ends."""
    _refuse_quantised(checkpoint)
    with quiet(), torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would also reseed every GPU, and those states are not given back.
        torch.default_generator.manual_seed(seed)
        yield


class _Quantised:
    """A format that a library puts the planned layers into while they are loaded."""

    def __init__(self, checkpoint: Checkpoint, task: TaskInfo, base_format: BaseFormat) -> None:
        config = _task_config(checkpoint, task)
        with torch.device("meta"):
            skeleton = _auto_class(checkpoint, task.kind, config).from_config(config)
        self.base_format = base_format
        self.planned = [spec.layer for spec in describe_layers(skeleton).layers]
        self.options = {"quantization_config": quantization_config(base_format, kept=not_planned(skeleton, self.planned))}


def _build(
    checkpoint: Checkpoint,
    task: TaskInfo,
    dtype: torch.dtype,
    state: Mapping[str, Tensor] | None = None,
    quantised: _Quantised | None = None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Build the task's model and name its new parameters, in the model's order."""
    options = {} if quantised is None else quantised.options
    model, report = _from_pretrained(checkpoint, task.kind, _task_config(checkpoint, task), dtype, state, options)
    if quantised is not None:
        settle_(model, quantised.base_format, quantised.planned)
    model.eval()
    new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    check_body(checkpoint, task, model, report)
    if task.kind is not TaskKind.IMAGE_CLASSIFICATION:
        _set_pad_token(checkpoint, task.kind, model)
    return model, tuple(name for name, _ in model.named_parameters() if name in new)


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    if isinstance(checkpoint, CompressedCheckpoint):
        return
    if method := checkpoint.config.get("quantization_config"):
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        raise UnsupportedModelError(
            f"{checkpoint.folder} is quantised ({name}); give the model it was made from, in float weights"
        )


def _task_config(checkpoint: Checkpoint, task: TaskInfo) -> Any:
    """Return the checkpoint's config with the task's labels."""
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot use the config of {checkpoint.folder}, model_type "
            f"{json.dumps(checkpoint.config.get('model_type'))} ({one_line(error)}); use a model whose class it knows"
        ) from error
    if task.kind in LABELLED or task.kind is TaskKind.REGRESSION:
        num_labels = 1 if task.kind is TaskKind.REGRESSION else task.num_labels
        names = task.label_names if len(task.label_names) == num_labels else [f"LABEL_{index}" for index in range(num_labels)]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = "regression" if task.kind is TaskKind.REGRESSION else "single_label_classification"
    if task.kind is TaskKind.QUESTION_ANSWERING:
        # Most families make the head as wide as the labels, and a checkpoint may be of a classifier with three.
        config.num_labels = 2
    return config


def _auto_class(checkpoint: Checkpoint, kind: TaskKind, config: Any) -> Any:
    """Return transformers' class for a task, which knows the config's architecture."""
    auto = getattr(transformers, AUTO_CLASSES[kind])
    if type(config) not in auto._model_mapping:
        raise UnsupportedModelError(
            f"transformers has no {kind.value} model for model_type {config.model_type} ({checkpoint.folder}); "
            "give another model or another task"
        )
    return auto


def _from_pretrained(
    checkpoint: Checkpoint,
    kind: TaskKind,
    config: Any,
    dtype: torch.dtype,
    state: Mapping[str, Tensor] | None,
    options: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Return the model and what transformers found missing, unexpected or of another shape."""
    auto = _auto_class(checkpoint, kind, config)
    # With a state dict transformers wants no folder, and then only the class itself takes the call.
    loader = auto if state is None else class_for(config, auto)
    renamed = _renamed_body(checkpoint, config, class_for(config, auto))
    if renamed is not None and isinstance(checkpoint, CompressedCheckpoint):
        # transformers renames tensors while it loads them, and the modules that hold compressed ones are put in before.
        raise UnsupportedModelError(
            f"{checkpoint.folder}: {class_for(config, auto).__name__} has another name for its body than the folder's compressed "
            f"matrices; for {kind.value} take the model that it was made from, when tuning without --base"
        )
    try:
        model, report = loader.from_pretrained(
            checkpoint.folder if state is None else None,
            config=config,
            state_dict=None if state is None else dict(state),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            key_mapping=renamed,
            **options,
        )
    except LayerLensError:
        # A compressed folder's own loading code has said it in one line.
        raise
    except ImportError as error:
        raise UnsupportedModelError(f"{checkpoint.folder} needs a package that is not here ({one_line(error)})") from error
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot load {checkpoint.folder} ({one_line(error)}); its weights and its config.json do not fit"
        ) from error
    if renamed is not None:
        # transformers would take the renaming back in what it saves, and load that as random weights.
        vars(model).pop("_weight_conversions", None)
    return model, report


def _renamed_body(checkpoint: Checkpoint, config: Any, task_class: type[PreTrainedModel]) -> dict[str, str] | None:
    """Return how tensors must be renamed where a family's task class calls its base model by another name.

    `LlamaForQuestionAnswering` keeps its body under `transformer.`, every Llama checkpoint has it under `model.`.
    """
    saved = class_for(config, transformers.AutoModel).base_model_prefix
    loaded = task_class.base_model_prefix
    starts = {name.partition(".")[0] for name in checkpoint.tensors}
    if saved == loaded or saved not in starts or loaded in starts:
        return None
    return {rf"^{re.escape(saved)}\.": f"{loaded}."}


def _set_pad_token(checkpoint: Checkpoint, kind: TaskKind, model: PreTrainedModel) -> None:
    """Give the model the pad token that `load_processor` pads with, whatever its config says.

    Decoders read a sample's class off its last token that is no padding, so the two must agree.
    """
    config = model.config.get_text_config()
    try:
        pad_token_id = load_processor(checkpoint, kind).pad_token_id
    except CheckpointError:
        if getattr(config, "pad_token_id", None) is None:
            raise
        return
    config.pad_token_id = model.config.pad_token_id = pad_token_id
