"""Plans of tiny models, and what a PEFT model made from an export really trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from layerlens.artifacts.plan import Plan
from layerlens.models.load import TaskModel
from tests.unit.adapting.plans import kind_of, make_plan, tiny_task_model, uneven_ranks

PREFIX = "base_model.model."


def made(family: str, folder: Path, ranks: Any = None, **changes: Any) -> tuple[TaskModel, Plan]:
    """A tiny model and a plan of it: ranks that differ, or those given."""
    kind = kind_of(family)
    task_model = tiny_task_model(family, folder, kind)
    plan = make_plan(task_model, kind, uneven_ranks(task_model) if ranks is None else ranks)
    return task_model, plan.model_copy(update=changes)


def realised(model: PeftModel) -> dict[str, tuple[int, float]]:
    """Rank and scaling of every LoRA, by module path."""
    return {
        path.removeprefix(PREFIX): (module.r["default"], module.scaling["default"])
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def trained(model: PeftModel) -> int:
    """Parameters that take a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def planned(plan: Plan) -> dict[str, tuple[int, float]]:
    """What `realised` should be."""
    return {layer: (rank, plan.alpha_over_rank) for layer, rank in plan.ranks.items()}
