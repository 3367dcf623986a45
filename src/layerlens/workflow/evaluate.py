"""`layerlens evaluate`: score what `tune` wrote, or any fine-tuned model of the same task, on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from layerlens.adapting.load import (
    PLAN_FILE,
    AdapterFolder,
    adapter_in,
    base_checkpoint,
    load_adapter,
    load_base,
    open_adapter,
    told_task,
)
from layerlens.adapting.samples import choose
from layerlens.adapting.save import CONFIG_FILE
from layerlens.adapting.tune import EVAL_SEED
from layerlens.artifacts.compression_evaluation import CompressionEvaluation
from layerlens.artifacts.evaluation import EVALUATION_FILE, Arm, Evaluation
from layerlens.artifacts.plan import load_plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import read_json, write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.compressing.folder_config import is_compressed_folder
from layerlens.config import EvaluateConfig, output_path
from layerlens.data.dataset import LoadedData
from layerlens.data.labels import HeadLabels
from layerlens.data.partition import in_split, partition
from layerlens.data.source_name import is_same_source
from layerlens.data.sources.opening import has_split_to_choose
from layerlens.errors import CheckpointError, ConfigError, few
from layerlens.evaluation.run import evaluate_model, make_evaluation
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.words import TaskKind
from layerlens.workflow.evaluate_compressed import evaluate_compressed
from layerlens.workflow.given import given_config
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import check_split, check_windows, open_data, tell_notes
from layerlens.workflow.own_output import holds, refuse_foreign
from layerlens.workflow.tune import PACKAGES
from layerlens.workflow.tuning_data import holds_what_trained

#: Options that are for compressed folders alone.
_OF_COMPRESSED = ("second_text", "window", "stride", "max_tokens", "new_tokens")


def evaluate(
    model: str | Path,
    data: str | Path,
    against: str | Path | None = None,
    out: str | Path = "evaluation.json",
    config: EvaluateConfig | Mapping[str, Any] | None = None,
    *,
    command: str = "layerlens.evaluate",
    progress: Progress = SILENT,
) -> Evaluation | CompressionEvaluation:
    """Score a model, and another one on the same samples; a compressed folder is compared with its original.

    Args:
        model: A folder that `tune` wrote (or the `adapter/` in it), or a fine-tuned model.
        data: What to score on. Samples that tuning may have trained on are left out where `data` is the data it was
            tuned on, moved or copied since or not; give other data to score on all of them.
        against: Another model or adapter.
        out: The evaluation to write, in place of one that this command has written there. Any other file is kept, what `tune`
            measured among them.
        config: Task, columns, batch size, `max_eval_samples`.
        command: The invocation.
        progress: Who watches.

    Returns:
        One arm per model; for a compressed folder what it weighs and what it lost.

    Raises:
        LayerLensError: a model, an adapter, the data or an option is not what it should be, or another file would be replaced.
    """
    config, path = given_config(EvaluateConfig, config or {}), output_path(out)
    model, data, against = str(model), str(data), None if against is None else str(against)
    refuse_foreign(path, _is_evaluated, EVALUATION_FILE)
    check_split(data, config)
    if is_compressed_folder(model):
        return evaluate_compressed(model, data, against, path, config, command=command, progress=progress)
    if idle := [name for name in _OF_COMPRESSED if name in config.model_fields_set and getattr(config, name) is not None]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ConfigError(f"{flags}: only a folder that `layerlens compress` wrote is compared in this way; leave it out")
    models = [_Model.of(name) for name in ([model] if against is None else [model, against])]
    loaded = _opened_data(models, data, config)
    tell_notes(progress, *loaded)
    indices = _indices(models, loaded, config, progress)
    _check_same_samples(models, loaded, indices)
    pairs = list(zip(models, loaded, strict=True))
    with threads(config.threads):
        for pair in pairs[1:]:
            # What cannot be loaded shows now, and not when the first one has been scored for an hour.
            _in_memory(*pair, config, SILENT)
        arms = [_score(*pair, indices, config, progress) for pair in pairs]
    evaluation = make_evaluation(
        arms,
        loaded[0],
        model=model,
        eval_samples=len(indices),
        command=command,
        versions=installed_versions(*PACKAGES),
        machine=machine_kind(),
    )
    write_json(path, evaluation)
    return evaluation


def _is_evaluated(path: Path) -> bool:
    """Whether a file holds what this command writes; the arms that `tune` has trained have steps."""
    if holds(path, CompressionEvaluation):
        return True
    return holds(path, Evaluation) and all(arm.steps is None for arm in read_json(path, Evaluation).arms)


@dataclass(frozen=True)
class _Model:
    """A model that is to be scored: a plain one, or an adapter with its base, the seed that shared out its samples, and whose."""

    name: str
    checkpoint: Checkpoint
    adapter: AdapterFolder | None = None
    split_seed: int | None = None
    data: str | None = None
    keeps_test: bool = True

    @classmethod
    def of(cls, name: str) -> _Model:
        folder = adapter_in(Path(name).expanduser())
        if folder is None:
            return cls(name, open_checkpoint(name))
        adapter, plan = open_adapter(folder), folder.parent / PLAN_FILE
        base, told = _base_of(adapter), adapter.trained_for
        if told is None:
            return cls(name, base, adapter, load_plan(plan).metadata.seed if plan.exists() else None)
        return cls(name, base, adapter, told.split_seed, told.data, told.keeps_test)

    def is_known_in(self, data: LoadedData) -> bool | None:
        """Whether these data hold the very samples that trained it; none where nothing tells."""
        told = None if self.adapter is None else self.adapter.trained_for
        return None if self.adapter is None or told is None else holds_what_trained(data, self.adapter, told)

    def may_have_trained_on(self, data: LoadedData, is_known: bool | None) -> bool:
        """Whether samples of these data trained it; where it does not tell, any source that has splits of its own may be it."""
        if self.split_seed is None:
            return False
        if self.data is None:
            return data.splits is not None
        if is_known is False and has_split_to_choose(self.data):
            # Another split of the same data set.
            return False
        return is_known or is_same_source(self.data, data.id)

    @property
    def has_lost_data(self) -> bool:
        """Whether the file or folder that it was tuned on is not there any more."""
        return self.data is not None and Path(self.data).is_absolute() and not Path(self.data).exists()


def _base_of(adapter: AdapterFolder) -> Checkpoint:
    """Look at what an adapter was trained over.

    Raises:
        CheckpointError: it is not there; says where its new place can be given, for here no option takes it.
    """
    try:
        return base_checkpoint(adapter)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, as base_model_name_or_path in {adapter.folder / CONFIG_FILE}") from error


def _opened_data(models: Sequence[_Model], data: str, config: EvaluateConfig) -> list[LoadedData]:
    """The data as each model takes them; what a model does not tell of its task is the first one's."""
    opened: list[LoadedData] = []
    for model in models:
        told = None if model.adapter is None else told_task(model.adapter)
        first = opened[0].task.info if opened else None
        opened.append(open_data(model.checkpoint, data, config, told or first, keeps_head=model.adapter is None))
        if told is not None and config.max_length is not None and model.may_have_trained_on(opened[-1], None):
            check_windows(told, opened[-1], config.max_length)
    return opened


def _indices(models: Sequence[_Model], loaded: Sequence[LoadedData], config: EvaluateConfig, progress: Progress) -> list[int]:
    """The test part of what trained a model and of a source with splits of its own, all samples of any other file.

    `max_eval_samples` of them are those of `tune`.

    Raises:
        ConfigError: what is kept for the test of one model may have trained another, nothing was kept for it, or the data have
            changed since they trained one.
    """
    data = loaded[0]
    indices: Sequence[int] = range(len(data.examples))
    if tests := in_split(data.splits, "test"):
        return sorted(choose(tests, config.max_eval_samples, seed=EVAL_SEED))
    trained = []
    for model, its in zip(models, loaded, strict=True):
        is_known = model.is_known_in(its)
        if model.may_have_trained_on(its, is_known):
            trained.append(model)
            if is_known is False:
                raise ConfigError(
                    f"{data.id} has changed since {model.name} was tuned on it, so which of its samples trained it is not known; "
                    "give it as it was, or other data"
                )
        elif is_known is None and model.has_lost_data:
            progress.note(
                f"{model.name} was tuned on {model.data}, which is not there any more: if {data.id} holds its samples, those "
                "that trained it are scored too"
            )
    if lost := [model.name for model in trained if not model.keeps_test]:
        raise ConfigError(
            f"{lost[0]} was tuned on {data.id} with test data of their own, so no sample of it was kept for a test; "
            "give data that it was not tuned on"
        )
    if trained or data.splits is not None:
        seeds = {model.split_seed: model.name for model in trained if model.split_seed is not None} or {config.seed: ""}
        parts = {seed: partition(len(data.examples), data.splits, seed=seed, has_eval_data=False).test for seed in seeds}
        indices = parts[next(iter(seeds))]
        if any(set(part) != set(indices) for part in parts.values()):
            told = ", ".join(f"{name} with seed {seed}" for seed, name in seeds.items())
            raise ConfigError(
                f"{data.id} was shared out differently ({told}), so that what tests one model may have trained the other; "
                "give data that neither was tuned on"
            )
    return sorted(choose(indices, config.max_eval_samples, seed=EVAL_SEED))


def _check_same_samples(models: Sequence[_Model], loaded: Sequence[LoadedData], indices: Sequence[int]) -> None:
    """See that sample numbers mean the same samples to all models; windows of text depend on the tokenizer and the length."""
    metrics = {data.task.primary_metric for data in loaded}
    if len(metrics) > 1:
        told = ", ".join(f"{model.name} for {data.task.info.kind}" for model, data in zip(models, loaded, strict=True))
        raise ConfigError(f"the models are for different tasks ({told}); evaluate each alone")
    known = {(len(data.examples), data.source_hash(indices) if _has_windows(data) else "") for data in loaded}
    if len(known) > 1:
        counts = ", ".join(f"{len(data.examples)} for {model.name}" for model, data in zip(models, loaded, strict=True))
        raise ConfigError(
            f"{loaded[0].id} does not give both models the same samples ({counts}); give --max-length or --text-columns, or, "
            "where their tokenizers differ, evaluate each alone"
        )


def _has_windows(data: LoadedData) -> bool:
    return data.task.info.kind is TaskKind.CAUSAL_LM


def _score(model: _Model, loaded: LoadedData, indices: Sequence[int], config: EvaluateConfig, progress: Progress) -> Arm:
    evaluated = _in_memory(model, loaded, config, progress)
    return evaluate_model(
        evaluated, loaded, indices, name=model.name, batch_size=2 * config.batch_size, seed=config.seed, progress=progress
    )


def _in_memory(model: _Model, loaded: LoadedData, config: EvaluateConfig, progress: Progress) -> nn.Module:
    """A model as it is scored, with its adapter on or its own trained head."""
    task, adapter = loaded.task.info, model.adapter
    if adapter is not None:
        return load_adapter(adapter, load_base(adapter, model.checkpoint, task, seed=config.seed))
    task_model = load_task_model(model.checkpoint, task, seed=config.seed)
    if task_model.new_parameters:
        _check_size_of_head(model, task_model.new_parameters, task)
        raise CheckpointError(
            f"{model.name} has no trained head for {task.kind} (it lacks {task_model.new_parameters[0]}); "
            "give a folder that `layerlens tune` wrote, or a fine-tuned model"
        )
    head = HeadLabels.of(model.checkpoint.config)
    if task.label_names and head.is_named and list(head.names) != task.label_names:
        progress.note(
            f"{model.name} calls its classes {few(list(head.names))}, the data call theirs {few(task.label_names)}: they "
            "are taken to be the same, in these orders"
        )
    return task_model.model


def _check_size_of_head(model: _Model, new_parameters: Sequence[str], task: TaskInfo) -> None:
    """Raise where a model has the head that was built anew, for another number of classes than the data have."""
    held = model.checkpoint.tensors.get(new_parameters[0])
    if held is not None and held.shape[0] != task.num_labels:
        names = f" ({few(task.label_names)})" if task.label_names else ""
        raise CheckpointError(
            f"the head of {model.name} has {held.shape[0]} outputs, but {task.kind} on these data needs {task.num_labels}"
            f"{names}; give data with the labels that it was trained for, or another --task"
        )
