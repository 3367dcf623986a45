"""A tiny model with its data and a plan, and one arm run on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from layerlens.adapting.arms import job as jobs
from layerlens.adapting.arms.job import ArmJob
from layerlens.adapting.arms.run import run_arm
from layerlens.adapting.finetune import finetune
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.models.load import TaskModel
from layerlens.progress import SILENT
from tests.unit.adapting.plans import kind_of, made_data, make_plan, tiny_task_model, uneven_ranks

QUICK = TuneConfig(learning_rate=1e-3, max_steps=4, batch_size=8, precision=Precision.FP32, fit_head=False)
NUM_SAMPLES = 60


@dataclass(frozen=True)
class Setting:
    """Everything that `run_arm` takes; `plan` has uneven ranks and a gradient norm for each layer."""

    task_model: TaskModel
    data: LoadedData
    part: Partition
    plan: Plan
    folder: Path
    candidates: dict[str, Plan] = field(default_factory=dict)

    def run(self, name: str, out: str, *, config: TuneConfig = QUICK, plan: Plan | None = None, **options: Any) -> Arm:
        evaluation = (self.data, self.part.test)
        parts = (self.task_model, self.data, self.part, evaluation, config)
        return run_arm(name, plan or self.plan, self.candidates, *parts, out=self.folder / out, **options)

    def job(self, name: str, out: str, *, config: TuneConfig = QUICK, plan: Plan | None = None, **options: Any) -> ArmJob:
        return ArmJob(
            name=name,
            plan=plan or self.plan,
            candidates=self.candidates,
            task_model=self.task_model,
            data=self.data,
            part=self.part,
            evaluation=(self.data, self.part.test),
            config=config,
            out=self.folder / out,
            rank=8,
            search_steps=options.pop("search_steps", None),
            progress=options.pop("progress", SILENT),
        )


def made(folder: Path, family: str = "bert", *, num: int = NUM_SAMPLES, **overrides: object) -> Setting:
    kind = kind_of(family)
    task_model = tiny_task_model(family, folder / "base", kind, **overrides)
    plan = make_plan(task_model, kind, uneven_ranks(task_model))
    norms = {entry.layer: 1.0 + number for number, entry in enumerate(plan.layers)}
    plan = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"gradient_norms": norms})})
    return Setting(task_model, made_data(task_model, kind, num), partition(num, None, seed=0, has_eval_data=False), plan, folder)


def after_training(patch: pytest.MonkeyPatch, look: Callable[[nn.Module], None], *, trains: bool = True) -> None:
    """Have `look` see the model when training has ended, or (without training) before it starts."""

    def spied(model: nn.Module, *args: Any, **options: Any) -> Arm:
        if not trains:
            look(model)
        arm = finetune(model, *args, **options)
        if trains:
            look(model)
        return arm

    patch.setattr(jobs, "finetune", spied)
