"""The final run: a plan becomes a trained adapter, a plain PEFT folder, and a measured arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerlens.adapting.attach import attached
from layerlens.adapting.batch_identity import batch_identity
from layerlens.adapting.finetune import ARITHMETIC, RunSpec, finetune, finished_arm
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.hooks import NO_HOOKS, Hooks
from layerlens.adapting.lora import check_model
from layerlens.adapting.num_steps import num_tuning_steps
from layerlens.adapting.precision import arithmetic, on_training_device, training_device
from layerlens.adapting.samples import Samples, choose
from layerlens.adapting.save import ADAPTER_FOLDER, WEIGHTS_FILE, save_adapter
from layerlens.adapting.site_modules import trained_identity
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.data.source_name import whole_name
from layerlens.errors import DataError
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress

NAME = "layerlens"
#: Runs of several seeds are scored on the same samples.
EVAL_SEED = 0


def tune(
    plan: Plan,
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    evaluation: tuple[LoadedData, Sequence[int]],
    config: TuneConfig,
    *,
    out: Path,
    name: str = NAME,
    progress: Progress = SILENT,
    hooks: Hooks = NO_HOOKS,
) -> Arm:
    """Train a plan's adapters and the head, save them to `out/adapter`, and score them.

    Args:
        plan: Any mix of methods.
        task_model: The plan's model; its random head is fitted, everything else is the same to the bit afterwards.
        data: Samples of the plan's task.
        part: Trained on are its `train` samples.
        evaluation: Data and sample numbers to score on.
        config: How to train.
        out: Folder of the run; a stopped run resumes there, a finished one is read from there.
        name: Of the arm.
        progress: Who watches.
        hooks: What the arm adds to the run.

    Returns:
        The measured arm.

    Raises:
        ConfigError: another run's folder, a tracker that is missing.
        ManifestError: a plan of another model.
        LayerLensError: the realised parameters are not the plan's.
        NotFiniteError: training diverged.
    """
    check_model(plan, task_model)
    spec = run_spec(
        name,
        task_model,
        data,
        part,
        evaluation,
        config,
        adapter_params=plan.params,
        head_params=plan.head_params,
        trained=trained_identity(plan),
    )
    kept = out / ADAPTER_FOLDER
    if (arm := finished_arm(out, spec)) is not None:
        if (kept / WEIGHTS_FILE).is_file():
            progress.note(f"{out} already holds this run")
            return arm
        progress.note(f"{kept} is gone: the run that made it is done again")
    with threads(config.threads):
        start_head_(task_model, data, part, config, progress)
        model = task_model.model
        with on_training_device(model), attached(model, plan, seed=config.seed) as adapted:
            return finetune(
                adapted,
                spec,
                out=out,
                keep=lambda: save_adapter(kept, adapted, plan, task_model, data=whole_name(data.id), keeps_test=bool(part.test)),
                progress=progress,
                hooks=hooks,
            )


def run_spec(
    name: str,
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    evaluation: tuple[LoadedData, Sequence[int]],
    config: TuneConfig,
    *,
    adapter_params: int,
    head_params: int,
    trained: dict[str, object],
) -> RunSpec:
    """Fix the samples, the steps and the identity of a run.

    Raises:
        DataError: no training or no evaluation samples.
    """
    eval_data, eval_indices = evaluation
    training = Samples(data, choose(part.train, config.max_train_samples, seed=config.seed))
    scored = Samples(eval_data, sorted(choose(eval_indices, config.max_eval_samples, seed=EVAL_SEED)))
    if not training.indices or not scored.indices:
        raise DataError(
            f"tuning needs training and evaluation samples, got {len(training)} of {data.id} and "
            f"{len(scored)} of {eval_data.id}; give more data, or --eval-data"
        )
    num_steps = num_tuning_steps(len(training), batch_size=config.batch_size, epochs=config.epochs, max_steps=config.max_steps)
    settings = config.model_dump(mode="json", exclude={"threads", "report_to", "keep_checkpoints", "save_steps"})
    identity = {
        "arm": name,
        "model": task_model.identity,
        "trained": trained,
        "training": training.identity,
        "evaluation": scored.identity,
        "config": settings,
        ARITHMETIC: arithmetic(config.precision, training_device()),
        **batch_identity(data.task),
    }
    return RunSpec(name, adapter_params, head_params, num_steps, training, scored, config, task_model.new_parameters, identity)
