"""Everything that an arm is run with, and the two ways to run one: a plan of its own, or adapters of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from layerlens.adapting.attach import put_on_, restored
from layerlens.adapting.finetune import finetune, finished_arm
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.hooks import NO_HOOKS, Hooks
from layerlens.adapting.lora import (
    ADAPTER,
    PEFT_PREFIX,
    adapted_modules,
    check_model,
    count_trainable,
    lora_config,
)
from layerlens.adapting.num_steps import num_tuning_steps
from layerlens.adapting.precision import kept_generators, on_training_device, training_device
from layerlens.adapting.samples import Samples, choose
from layerlens.adapting.tune import run_spec, tune
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import RaceConfig, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import LayerLensError
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.models.weights import is_transposed
from layerlens.progress import Progress


@dataclass(frozen=True)
class Prepared:
    """A model with an arm's adapters on.

    Attributes:
        model: What is trained.
        params: Adapter parameters that it trains.
        hooks: What the method adds to the run.
    """

    model: nn.Module
    params: int
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class ArmJob:
    """One arm to run. See `run_arm`."""

    name: str
    plan: Plan
    candidates: Mapping[str, Plan]
    task_model: TaskModel
    data: LoadedData
    part: Partition
    evaluation: tuple[LoadedData, Sequence[int]]
    config: TuneConfig
    out: Path
    rank: int
    search_steps: int | None
    progress: Progress
    race: RaceConfig = field(default_factory=RaceConfig)

    @property
    def training(self) -> Samples:
        """The samples that every arm of this job trains on."""
        return Samples(self.data, choose(self.part.train, self.config.max_train_samples, seed=self.config.seed))

    @property
    def num_steps(self) -> int:
        """Training steps of every arm of this job."""
        config = self.config
        return num_tuning_steps(
            max(1, len(self.training)), batch_size=config.batch_size, epochs=config.epochs, max_steps=config.max_steps
        )

    def run_plan(self, plan: Plan, hooks: Hooks = NO_HOOKS) -> Arm:
        """Train this plan."""
        return tune(
            plan,
            self.task_model,
            self.data,
            self.part,
            self.evaluation,
            self.config,
            out=self.out,
            name=self.name,
            progress=self.progress,
            hooks=hooks,
        )

    def run_adapters(
        self,
        trained: dict[str, Any],
        params: int,
        prepared: Callable[[], AbstractContextManager[Prepared]],
    ) -> Arm:
        """Train adapters that a plan cannot describe; they are measured, not kept.

        Args:
            trained: What the run is known by besides its data and config.
            params: Adapter parameters that the arm reports unless its hooks know better.
            prepared: Puts them on the model, and takes them off again.

        Raises:
            LayerLensError: what is trainable is not what the method says.
        """
        check_model(self.plan, self.task_model)
        spec = run_spec(
            self.name,
            self.task_model,
            self.data,
            self.part,
            self.evaluation,
            self.config,
            adapter_params=params,
            head_params=self.plan.head_params,
            trained=trained,
        )
        if (arm := finished_arm(self.out, spec)) is not None:
            self.progress.note(f"{self.out} already holds this run")
            return arm
        with threads(self.config.threads):
            start_head_(self.task_model, self.data, self.part, self.config, self.progress)
            with on_training_device(self.task_model.model), prepared() as ready:
                if (found := count_trainable(ready.model)) != ready.params + self.plan.head_params:
                    raise LayerLensError(
                        f"{self.name}: {found:,} parameters are trainable, {ready.params:,} of adapters and "
                        f"{self.plan.head_params:,} of the head are needed; report this with the plan"
                    )
                return finetune(ready.model, spec, out=self.out, keep=lambda: None, progress=self.progress, hooks=ready.hooks)


def base_config(plan: Plan, model: nn.Module) -> LoraConfig:
    """PEFT's config of a plan's LoRA ranks."""
    return lora_config(plan, is_transposed=any(map(is_transposed, adapted_modules(plan, model).values())))


@contextmanager
def peft_attached(job: ArmJob, config: PeftConfig) -> Iterator[PeftModel]:
    """Adapt the base model by any config of PEFT inside the context; afterwards it is bit for bit what it was."""
    model = job.task_model.model
    with restored(model, job.plan.head):
        # PEFT draws its start from the global generator before a method puts its own in place.
        with kept_generators(training_device()):
            adapted = put_on_(model, config)
        yield adapted


def start_from_(model: nn.Module, directions: Mapping[str, Tensor]) -> None:
    """Put rows in place of each LoRA's down projection; its up projection stays zero, and so does its update.

    Args:
        model: PEFT's model, with LoRA's usual start.
        directions: `[rank, in_features]` by layer. A row of zeros, which could never learn, leaves the usual start in its place;
            so does a layer without rows.
    """
    for path, module in model.named_modules():
        rows = directions.get(path.removeprefix(PEFT_PREFIX)) if isinstance(module, LoraLayer) else None
        if rows is not None:
            down = module.lora_A[ADAPTER].weight
            with torch.no_grad():
                down.copy_(torch.where(rows.any(dim=1, keepdim=True), rows.to(down), down))
