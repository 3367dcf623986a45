"""The few numbers at the top of the page."""

from __future__ import annotations

from dataclasses import dataclass

from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Plan
from layerlens.reporting.arms import ArmKind, find_arm, group_arms
from layerlens.reporting.quantities import BUDGET_LABELS, NO_BREAK, count, duration, memory, percent, score, spend
from layerlens.reporting.run_folder import RunFolder
from layerlens.words import BudgetName


@dataclass(frozen=True)
class Tile:
    """One number with its name and what to hold it against."""

    label: str
    value: str
    note: str


def tiles(run: RunFolder) -> list[Tile]:
    """What was measured where there is a measurement, else what the plan predicts."""
    found = _measured(run.evaluation) if run.evaluation else []
    if run.plan is None:
        return found
    size = Tile(
        "Adapter parameters",
        count(run.plan.params),
        f"{percent(run.plan.params / run.plan.model.num_parameters)} of the model; head apart: {count(run.plan.head_params)}",
    )
    return [*found[:1], size, *found[1:]] if found else [size, *_predicted(run.plan)]


def _measured(evaluation: Evaluation) -> list[Tile]:
    groups, metric = group_arms(evaluation), evaluation.primary_metric
    ours = find_arm(groups, ArmKind.LAYERLENS)
    full, uniform = find_arm(groups, ArmKind.FULL), find_arm(groups, ArmKind.UNIFORM)
    if ours is None or (reached := ours.mean(metric)) is None:
        return []
    others = [
        f"{name} {score(metric, mean)}"
        for name, group in (("uniform", uniform), ("full fine-tuning", full))
        if group is not None and (mean := group.mean(metric)) is not None
    ]
    words = metric.replace("_", " ")
    found = [Tile(f"{words[:1].upper()}{words[1:]}", score(metric, reached), ", ".join(others))]
    seconds, peak = evaluation.machine, ""
    if full is not None and full.train_seconds > 0:
        ratio = ours.train_seconds / full.train_seconds
        seconds = f"{ratio:.2f}{NO_BREAK}× full fine-tuning ({duration(full.train_seconds)})"
    if full is not None and full.peak_memory_bytes > 0:
        ratio = ours.peak_memory_bytes / full.peak_memory_bytes
        peak = f"{ratio:.2f}{NO_BREAK}× full fine-tuning ({memory(full.peak_memory_bytes)})"
    found.append(Tile("Training time", duration(ours.train_seconds), seconds))
    found.append(Tile("Peak memory while training", memory(ours.peak_memory_bytes), peak))
    return found


def _predicted(plan: Plan) -> list[Tile]:
    found = []
    for name in (BudgetName.VRAM_BYTES, BudgetName.TIME_RATIO, BudgetName.LATENCY_MS):
        budget = plan.budgets.get(name)
        if budget is not None:
            limit = "no limit was set" if budget.limit is None else f"limit {spend(name, budget.limit)}"
            amount, _, rest = spend(name, budget.spent).partition(" ")
            found.append(Tile(BUDGET_LABELS[name], amount, f"{rest}, predicted; {limit}".removeprefix(", ")))
    return found
