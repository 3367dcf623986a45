"""Opening what several commands start from: a model with its data, and a plan with the model it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from layerlens.artifacts.layers import ModelLayout
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.config import BaseFormat, DataConfig, ProfilingConfig, TrainingConfig
from layerlens.data.dataset import LoadedData, load_dataset
from layerlens.data.guess import is_causal_lm
from layerlens.data.partition import Partition, partition
from layerlens.data.sources.opening import has_split_to_choose
from layerlens.errors import ConfigError, ManifestError, UnsupportedModelError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.compressed_checkpoint import CompressedCheckpoint, open_compressed_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.quantised_base import check_library
from layerlens.models.roles import describe_layers
from layerlens.models.streamed.load import StreamedModel, load_streamed_model
from layerlens.profiling.processes import ALONE, Processes
from layerlens.progress import SILENT, Progress
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.words import BudgetName, TaskKind
from layerlens.workflow.execution import is_streamed, largest_batch

#: What is told of a model that cannot be streamed and shall be compressed.
_NO_WAY_OUT = "such a model cannot be compressed"


@dataclass(frozen=True)
class Opened:
    """A task model in memory with the data it is looked at or trained on."""

    checkpoint: Checkpoint
    task_model: TaskModel
    layout: ModelLayout
    data: LoadedData
    part: Partition


def open_data(
    checkpoint: Checkpoint, data: str, config: DataConfig, task: TaskInfo | None = None, *, keeps_head: bool = False
) -> LoadedData:
    """Read `data` for a model, with the labels of `task` where one is given, or of the head that the model has and keeps."""
    return load_dataset(
        data,
        config,
        checkpoint_config=checkpoint.config,
        processor_for=lambda kind: load_processor(checkpoint, kind),
        task=task,
        keeps_head=keeps_head,
    )


def check_split(data: str, config: DataConfig) -> None:
    """See that the data have the splits that one was asked for of.

    Raises:
        ConfigError: they are one file or folder, which is read whole.
    """
    if config.split is not None and not has_split_to_choose(data):
        raise ConfigError(
            f"--split {config.split}: {data} is read whole, for only a hub data set or several splits that `datasets` has saved "
            "have one to choose; leave --split out, or give the file of that split"
        )


def tell_base(progress: Progress, plan: Plan, config: TrainingConfig) -> None:
    """Say where a plan's memory was priced over a base in few bits that training does not hold so."""
    priced = plan.metadata.optimization.get("base_format", BaseFormat.AS_IS)
    if BudgetName.VRAM_BYTES in plan.budgets and config.base is None and priced not in (BaseFormat.AS_IS, config.base_format):
        progress.note(
            f"the plan's memory was priced over a base in {priced}, but training holds it as {config.base_format}: "
            f"give --base-format {priced}, or expect more than the budget"
        )


def tell_notes(progress: Progress, *opened: LoadedData) -> None:
    """Say what of some data was left out or cut; what holds for several readings once."""
    for note in dict.fromkeys(note for data in opened for note in data.notes):
        progress.note(note)


def open_model(model: str, data: str, config: DataConfig, *, has_eval_data: bool = False) -> Opened:
    """Open a model and its data, and build the task model for what the data asks."""
    checkpoint = open_checkpoint(model)
    loaded = open_data(checkpoint, data, config)
    return _opened(checkpoint, loaded, loaded.task.info, config.seed, config.seed, has_eval_data=has_eval_data)


def open_profile_model(model: str, data: str, config: ProfilingConfig, processes: Processes = ALONE) -> Opened:
    """Open a model and its data for a profile: in memory, or as a `StreamedModel` where it shall stay on disk.

    Where several processes share the profile the first one decides which, for all of them.
    """
    checkpoint, loaded, part = processes.together(partial(_profiled, model, data, config))

    def streams() -> bool:
        return is_streamed(checkpoint, config, largest_batch(checkpoint, loaded, part, config), processes.num_here)

    def opened(is_on_disk: bool) -> Opened:
        if not is_on_disk:
            return _opened(checkpoint, loaded, loaded.task.info, config.seed, config.seed, has_eval_data=False)
        streamed = load_streamed_model(checkpoint, loaded.task.info, seed=config.seed)
        return Opened(checkpoint, streamed, streamed.layout, loaded, part)

    return processes.together(partial(opened, processes.of_first(streams)))


def _profiled(model: str, data: str, config: ProfilingConfig) -> tuple[Checkpoint, LoadedData, Partition]:
    """A model that is looked at but not loaded, its data, and who gets which samples."""
    check_split(data, config)
    checkpoint = open_checkpoint(model)
    loaded = open_data(checkpoint, data, config)
    return checkpoint, loaded, partition(len(loaded.examples), loaded.splits, seed=config.seed, has_eval_data=False)


def open_streamed(
    checkpoint: Checkpoint, data: str, config: DataConfig, progress: Progress = SILENT
) -> tuple[LoadedData, StreamedModel]:
    """Open data, and a model that stays on disk, to compress it.

    A model that lacks the head of what its data ask is opened for what it does have, unless the task was given: a causal
    language model for its own next-token loss on the texts, any other for its embeddings (but for images, of which there are
    none). A random head's loss is blind to most of what the model does.

    Raises:
        ConfigError: a split of data that have none to choose.
    """
    check_split(data, config)
    loaded = open_data(checkpoint, data, config)
    is_free = config.task is None and loaded.task.info.kind is not TaskKind.IMAGE_CLASSIFICATION
    try:
        model = load_streamed_model(checkpoint, loaded.task.info, seed=config.seed, way_out=_NO_WAY_OUT)
    except UnsupportedModelError:
        if not is_free:
            raise
    else:
        if not (is_free and model.new_parameters):
            tell_notes(progress, loaded)
            return loaded, model
        model.state.reader.close()
    asked = loaded.task.info
    is_language_model = is_causal_lm(checkpoint.config) and asked.kind is not TaskKind.CAUSAL_LM
    kind = TaskKind.CAUSAL_LM if is_language_model else TaskKind.EMBEDDING
    what = "next-token loss on the texts" if is_language_model else "embeddings"
    progress.note(f"no trained head for {asked.kind}: the model is compressed for its {what}")
    # Running text wants its columns named where the task took several.
    columns = config.text_columns or asked.text_columns or None
    loaded = open_data(checkpoint, data, config.model_copy(update={"task": kind, "text_columns": columns}))
    tell_notes(progress, loaded)
    return loaded, load_streamed_model(checkpoint, loaded.task.info, seed=config.seed, way_out=_NO_WAY_OUT)


def open_plan_model(plan: Plan, data: str, config: TrainingConfig, *, has_eval_data: bool = False) -> Opened:
    """Open the very model that a plan was made for, in its own numbers or as `config` says, with data of the plan's task.

    Raises:
        ManifestError: the model in that place is another one now, or the compressed folder was made from another.
        ConfigError: the library that holds the base is not installed, the length would cut running text anew, or a split was
            asked for of data that have none to choose.
    """
    check_library(config.base_format)
    check_split(data, config)
    checkpoint = open_checkpoint(plan.model.id) if config.base is None else _compressed_base(plan, config.base)
    if (found := checkpoint.hash()) != plan.model.hash:
        raise ManifestError(
            f"the plan was made for {plan.model.id} with hash {plan.model.hash[:12]}, but that model now has {found[:12]}; "
            "profile and plan again"
        )
    loaded = open_data(checkpoint, data, config, plan.task)
    check_windows(plan.task, loaded, config.max_length)
    # Samples are shared out by the profile's seed, so that what it calibrated on never decides a race or an evaluation.
    return _opened(
        checkpoint,
        loaded,
        plan.task,
        config.seed,
        plan.metadata.seed,
        has_eval_data=has_eval_data,
        base_format=config.base_format,
    )


def check_race(plan: Plan, data: LoadedData, *, has_eval_data: bool) -> None:
    """See that what decided the race of a plan does not test it too: with data for the evaluation no samples are kept for it.

    Raises:
        ConfigError: the race had data for the evaluation, tuning has none, and the source fixes neither part.
    """
    told = None if plan.race is None else plan.race.details.get("eval_data")
    if told is not None and not has_eval_data and not {"validation", "test"} & set(data.splits or ()):
        raise ConfigError(
            f"the plan has raced with --eval-data {told}, so samples of {data.id} that would test it now have decided its "
            "race; give --eval-data here too, or race again without"
        )


def check_windows(task: TaskInfo, data: LoadedData, max_length: int | None) -> None:
    """See that running text is cut as the plan's was, where some part of it is drawn: other windows would lie across the parts.

    Args:
        task: The plan's.
        data: What was opened.
        max_length: As it was asked for; none leaves the plan's.

    Raises:
        ConfigError: another length than the plan's was asked for.
    """
    is_recut = task.kind is TaskKind.CAUSAL_LM and max_length not in (None, task.max_length)
    if is_recut and not {"train", "validation", "test"} <= set(data.splits or ()):
        raise ConfigError(
            f"--max-length {max_length}: the plan shares out {data.id} in windows of {task.max_length} tokens, and others "
            "would mix what is trained on with what is tested on; leave --max-length out, or begin anew with it"
        )


def _compressed_base(plan: Plan, base: str) -> CompressedCheckpoint:
    """The compressed folder that shall stand for a plan's model."""
    checkpoint = open_compressed_checkpoint(Path(base).expanduser())
    if checkpoint.hash() != plan.model.hash:
        raise ManifestError(
            f"{base} was compressed from {checkpoint.id} with hash {checkpoint.hash()[:12]}, the plan was made for "
            f"{plan.model.id} with {plan.model.hash[:12]}; compress the plan's model, or profile and plan the other"
        )
    return checkpoint


def _opened(
    checkpoint: Checkpoint,
    loaded: LoadedData,
    task: TaskInfo,
    seed: int,
    partition_seed: int,
    *,
    has_eval_data: bool,
    base_format: BaseFormat = BaseFormat.AS_IS,
) -> Opened:
    part = partition(len(loaded.examples), loaded.splits, seed=partition_seed, has_eval_data=has_eval_data)
    task_model = load_task_model(checkpoint, task, seed=seed, base_format=base_format)
    if task_model.is_quantised:
        # The float weights are gone, and what is decoded on use shall not stay behind: few bits are there to save memory.
        MemoryGuard.return_large()
        MemoryGuard.trim()
    return Opened(checkpoint, task_model, describe_layers(task_model.model), loaded, part)
