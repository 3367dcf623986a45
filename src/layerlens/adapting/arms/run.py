"""Running one arm by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layerlens.adapting.arms.adalora import run_adalora
from layerlens.adapting.arms.eva import run_eva
from layerlens.adapting.arms.full import run_full
from layerlens.adapting.arms.gradient_init import run_gradient_init
from layerlens.adapting.arms.job import ArmJob
from layerlens.adapting.arms.names import ArmName
from layerlens.adapting.arms.ranks import (
    CUSTOMARY_RANK,
    customary_ranks,
    gradient_ranks,
    mlp_ranks,
    optimum_plan,
    random_ranks,
    shuffled_plan,
    uniform_plan,
    with_ranks,
)
from layerlens.adapting.arms.refused import why_refused
from layerlens.adapting.arms.rslora import run_uniform_rslora
from layerlens.adapting.arms.search import run_search
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import RaceConfig, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError
from layerlens.models.compressed_checkpoint import CompressedCheckpoint
from layerlens.models.load import TaskModel
from layerlens.progress import SILENT, Progress

#: Arms that are a plan and nothing more.
_PLANS: dict[ArmName, Callable[[ArmJob], Plan]] = {
    ArmName.HEAD: lambda job: with_ranks(job.plan, {}),
    ArmName.QUERY_VALUE: lambda job: with_ranks(job.plan, customary_ranks(job.plan, job.rank)),
    ArmName.UNIFORM: lambda job: uniform_plan(job.plan, job.candidates),
    ArmName.MLP: lambda job: with_ranks(job.plan, mlp_ranks(job.plan)),
    ArmName.RANDOM: lambda job: with_ranks(job.plan, random_ranks(job.plan, seed=job.config.seed)),
    ArmName.SHUFFLED: lambda job: shuffled_plan(job.plan, seed=job.config.seed),
    ArmName.TOP_GRADIENT: lambda job: with_ranks(job.plan, gradient_ranks(job.plan)),
    ArmName.NO_RACE: lambda job: optimum_plan(job.plan, job.candidates),
    ArmName.LAYERLENS: lambda job: job.plan,
}
#: Arms with a start, a scaling, ranks or a search of their own.
_METHODS: dict[ArmName, Callable[[ArmJob], Arm]] = {
    ArmName.FULL: run_full,
    ArmName.UNIFORM_RSLORA: run_uniform_rslora,
    ArmName.GRADIENT_INIT: run_gradient_init,
    ArmName.ADALORA: run_adalora,
    ArmName.EVA: run_eva,
    ArmName.SEARCH: run_search,
    ArmName.SEARCH_10X: run_search,
}


def run_arm(
    name: str,
    plan: Plan,
    candidates: Mapping[str, Plan],
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    evaluation: tuple[LoadedData, Sequence[int]],
    config: TuneConfig,
    *,
    out: Path,
    rank: int = CUSTOMARY_RANK,
    search_steps: int | None = None,
    race: RaceConfig | None = None,
    progress: Progress = SILENT,
) -> Arm:
    """Run one arm; the base model is the same to the bit afterwards, but for its fitted head.

    Args:
        name: One of `ArmName`.
        plan: The plan that the arm is compared with (or is); arms have as many adapter parameters as it has.
        candidates: The plan's candidates; `uniform` and `no-race` look here.
        task_model: The model.
        data: Samples.
        part: Trained on are its `train` samples; a search is scored on its `race` samples.
        evaluation: Data and sample numbers to score on.
        config: How to train; the learning rate is this arm's own, and its seed decides what is random in an arm.
        out: Folder of this arm.
        rank: Of the query + value arm.
        search_steps: What the race cost in training steps; read off the plan if not given.
        race: The race that a search is compared with; its trials are at least as long as a finalist's run there, and are scored
            on as many samples. As races are by default if not given.
        progress: Who watches.

    Returns:
        The measured arm; `trainable_params` is what the arm really came to.

    Raises:
        ConfigError: an unknown arm, or one that this plan, model or installation cannot have.
        LayerLensError: the data, the plan and the model do not fit each other.
    """
    if name not in list(ArmName):
        raise ConfigError(f"unknown arm {name}; known are {', '.join(ArmName)}")
    arm = ArmName(name)
    reason = why_refused(name, plan, is_compressed=isinstance(task_model.checkpoint, CompressedCheckpoint))
    if reason is not None:
        raise ConfigError(f"{name}: {reason}")
    parts = (plan, candidates, task_model, data, part, evaluation, config)
    job = ArmJob(arm.value, *parts, out, rank, search_steps, progress, race or RaceConfig())
    return job.run_plan(_PLANS[arm](job)) if arm in _PLANS else _METHODS[arm](job)
