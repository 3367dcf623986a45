"""What a plan is compared with, through the same Trainer, from the same head, on the same batches.

full          every parameter of the model
query+value   PEFT's customary LoRA: rank 8 on query and value (on the fused layer where there is one)
uniform       the uniform candidate at the plan's budgets
head          the head alone
layerlens     the plan
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from torch import nn

from layerlens.adapting.attach import restored
from layerlens.adapting.finetune import finetune, finished_arm
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.lora import check_model, count_trainable
from layerlens.adapting.precision import on_training_device
from layerlens.adapting.tune import run_spec, tune
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import UNIFORM, Plan
from layerlens.config import TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.words import Method, Role, Site

#: The rank that PEFT's config has by default.
CUSTOMARY_RANK = 8
CUSTOMARY_ROLES = (Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.ATTENTION_QKV)


class ArmName(StrEnum):
    """The arms that can be run."""

    FULL = "full"
    QUERY_VALUE = "query+value"
    UNIFORM = "uniform"
    HEAD = "head"
    LAYERLENS = "layerlens"


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
    progress: Progress = SILENT,
) -> Arm:
    """Run one arm; the base model is the same to the bit afterwards, but for its fitted head.

    Args:
        name: One of `ArmName`.
        plan: The plan that the arm is compared with (or is).
        candidates: The plan's candidates; `uniform` is taken from here.
        task_model: The model.
        data: Samples.
        part: Trained on are its `train` samples.
        evaluation: Data and sample numbers to score on.
        config: How to train; the learning rate is this arm's own.
        out: Folder of this arm.
        rank: Of the query + value arm.
        progress: Who watches.

    Raises:
        ConfigError: an unknown arm, no uniform candidate, or a model without query and value layers.
    """
    if name not in list(ArmName):
        raise ConfigError(f"unknown arm {name}; known are {', '.join(ArmName)}")
    if name == ArmName.FULL:
        return _full(plan, task_model, data, part, evaluation, config, out=out, progress=progress)
    if name == ArmName.UNIFORM:
        if UNIFORM not in candidates:
            raise ConfigError("the plan has no uniform candidate to compare with; plan again")
        plan = candidates[UNIFORM]
    elif name == ArmName.HEAD:
        plan = with_ranks(plan, {})
    elif name == ArmName.QUERY_VALUE:
        plan = with_ranks(plan, customary_ranks(plan, rank))
    return tune(plan, task_model, data, part, evaluation, config, out=out, name=name, progress=progress)


def customary_ranks(plan: Plan, rank: int) -> dict[str, int]:
    """The ranks of PEFT's customary LoRA, by full module path.

    Raises:
        ConfigError: no layer of the plan is a query, a value or both.
    """
    ranks = {entry.layer: rank for entry in plan.layers if entry.site is Site.LINEAR and entry.role in CUSTOMARY_ROLES}
    if not ranks:
        raise ConfigError("no layer of this model is known as query or value; leave the query+value arm out")
    return ranks


def with_ranks(plan: Plan, ranks: Mapping[str, int]) -> Plan:
    """A plan of the same model with these LoRA ranks and nothing else; its prices are void, it is only trained."""
    layers = []
    for entry in plan.layers:
        size = ranks.get(entry.layer, 0) if entry.site is Site.LINEAR else 0
        method = Method.LORA if size else Method.NONE
        params = trainable_params(method, size, in_features=entry.in_features, out_features=entry.out_features)
        layers.append(entry.model_copy(update={"method": method, "size": size, "params": params}))
    return plan.model_copy(update={"layers": layers, "budgets": {}, "race": None})


@contextmanager
def all_trainable(model: nn.Module) -> Iterator[None]:
    """Make every parameter trainable inside the context; afterwards all weights are what they were."""
    kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    try:
        model.requires_grad_(True)
        yield
    finally:
        model.load_state_dict(kept)


def _full(
    plan: Plan,
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    evaluation: tuple[LoadedData, Sequence[int]],
    config: TuneConfig,
    *,
    out: Path,
    progress: Progress,
) -> Arm:
    check_model(plan, task_model)
    model = task_model.model
    total = sum(parameter.numel() for parameter in model.parameters())
    spec = run_spec(
        ArmName.FULL,
        task_model,
        data,
        part,
        evaluation,
        config,
        adapter_params=total - plan.head_params,
        head_params=plan.head_params,
        trained={"all": total},
    )
    if (arm := finished_arm(out, spec)) is not None:
        progress.note(f"{out} already holds this run")
        return arm
    with threads(config.threads):
        start_head_(task_model, data, part, config, progress)
        with on_training_device(model), restored(model, []), all_trainable(model):
            if count_trainable(model) != total:
                raise ConfigError("full fine-tuning: not every parameter of this model can be trained")
            return finetune(model, spec, out=out, keep=lambda: None, progress=progress)
