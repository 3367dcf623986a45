"""`layerlens evaluate`: score what `tune` wrote, or any fine-tuned model of the same task, on data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerlens.adapting.load import PLAN_FILE, adapter_in, base_checkpoint, load_adapter, load_base, open_adapter, told_task
from layerlens.artifacts.compression_evaluation import CompressionEvaluation
from layerlens.artifacts.evaluation import Arm, Evaluation
from layerlens.artifacts.plan import Plan, load_plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.compressing.folder_config import is_compressed_folder
from layerlens.config import EvaluateConfig, output_path
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import partition
from layerlens.errors import CheckpointError, ConfigError
from layerlens.evaluation.run import evaluate_model, make_evaluation
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.progress import SILENT, Progress
from layerlens.workflow.evaluate_compressed import evaluate_compressed
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import open_data
from layerlens.workflow.tune import PACKAGES


def evaluate(
    model: str,
    data: str,
    against: str | None = None,
    out: str | Path = "evaluation.json",
    config: EvaluateConfig | None = None,
    *,
    command: str = "layerlens.evaluate",
    progress: Progress = SILENT,
) -> Evaluation | CompressionEvaluation:
    """Score a model, and another one on the same samples; a compressed folder is compared with its original.

    Args:
        model: A folder that `tune` wrote (or the `adapter/` in it), or a fine-tuned model.
        data: What to score on. Samples that tuning may have trained on are left out where `data` is the data it was
            tuned on and splits itself; give a file of its own to score on all of it.
        against: Another model or adapter.
        out: The evaluation to write.
        config: Task, columns, batch size, `max_eval_samples`.
        command: The invocation.
        progress: Who watches.

    Returns:
        One arm per model; for a compressed folder what it weighs and what it lost.

    Raises:
        LayerLensError: a model, an adapter or the data is not what it should be.
    """
    config = config or EvaluateConfig()
    if is_compressed_folder(model):
        return evaluate_compressed(model, data, against, out, config, command=command, progress=progress)
    task: TaskInfo | None = None
    arms: list[Arm] = []
    loaded: LoadedData | None = None
    for name in [model] if against is None else [model, against]:
        arm, loaded, indices = _score(name, data, config, task, progress)
        task = loaded.task.info
        arms.append(arm)
    if loaded is None:
        raise ConfigError("evaluate: no model given")
    evaluation = make_evaluation(
        arms,
        loaded,
        model=model,
        eval_samples=len(indices),
        command=command,
        versions=installed_versions(*PACKAGES),
        machine=machine_kind(),
    )
    write_json(output_path(out), evaluation)
    return evaluation


def _score(
    name: str, data: str, config: EvaluateConfig, task: TaskInfo | None, progress: Progress
) -> tuple[Arm, LoadedData, Sequence[int]]:
    folder, plan = _adapter_of(Path(name))
    if folder is None:
        checkpoint = open_checkpoint(name)
    else:
        adapter = open_adapter(folder)
        checkpoint = base_checkpoint(adapter)
        task = told_task(adapter) or task
    loaded = open_data(checkpoint, data, config, task)
    task_model = (
        load_task_model(checkpoint, loaded.task.info, seed=config.seed)
        if folder is None
        else load_base(adapter, checkpoint, loaded.task.info, seed=config.seed)
    )
    if folder is None and task_model.new_parameters:
        raise CheckpointError(
            f"{name} has no trained head for {loaded.task.info.kind} (it lacks {task_model.new_parameters[0]}); "
            "give a folder that `layerlens tune` wrote, or a fine-tuned model"
        )
    evaluated = task_model.model if folder is None else load_adapter(adapter, task_model)
    indices = _indices(loaded, plan, config)
    arm = evaluate_model(
        evaluated, loaded, indices, name=name, batch_size=2 * config.batch_size, seed=config.seed, progress=progress
    )
    return arm, loaded, indices


def _adapter_of(folder: Path) -> tuple[Path | None, Plan | None]:
    """The adapter folder that was meant, and the plan beside it; none for a plain model."""
    adapter = adapter_in(folder)
    if adapter is None:
        return None, None
    plan = adapter.parent / PLAN_FILE
    return adapter, load_plan(plan) if plan.exists() else None


def _indices(loaded: LoadedData, plan: Plan | None, config: EvaluateConfig) -> Sequence[int]:
    """All samples of a file; of a source with splits of its own the test part."""
    indices: Sequence[int] = range(len(loaded.examples))
    if loaded.splits is not None:
        seed = plan.metadata.seed if plan is not None else config.seed
        indices = partition(len(loaded.examples), loaded.splits, seed=seed, has_eval_data=False).test
    return indices[: config.max_eval_samples] if config.max_eval_samples else indices
