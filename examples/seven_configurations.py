"""Seven configurations of one model: where the planner puts the ranks, and what it spends.

    python -m examples.seven_configurations

No model and no data are needed: the profile is synthetic (`synthetic_profile.py`), of all-MiniLM-L6-v2's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.synthetic_profile import MINILM, SyntheticProfile, synthesise
from layerlens.artifacts.plan import Plan
from layerlens.budget.run import make_plan
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Method, Role

MAX_TRAINABLE_PARAMS = 50_000
Sensitivity = Callable[[int, Role], float]


@dataclass(frozen=True)
class Configuration:
    """A model that is sensitive somewhere, and how to plan for it."""

    name: str
    sensitivity: Sensitivity
    options: dict[str, Any]


def uniform(block: int, role: Role) -> float:
    return 1.0


def early(block: int, role: Role) -> float:
    return 1.0 - 0.9 * block / (MINILM.blocks - 1)


def late(block: int, role: Role) -> float:
    return early(MINILM.blocks - 1 - block, role)


def at_random(block: int, role: Role) -> float:
    place = block * len(MINILM.layers) + list(MINILM.layers).index(role)
    return float(np.random.default_rng(7).uniform(0.1, 1.0, MINILM.blocks * len(MINILM.layers))[place])


BUDGET = {"max_trainable_params": MAX_TRAINABLE_PARAMS}
CONFIGURATIONS = [
    Configuration("default", uniform, BUDGET),
    Configuration("four-fold budget", uniform, {"max_trainable_params": 4 * MAX_TRAINABLE_PARAMS}),
    Configuration("early layers sensitive", early, BUDGET),
    Configuration("late layers sensitive", late, BUDGET),
    Configuration(
        "LoRA cheap",
        uniform,
        {
            **BUDGET,
            "candidate_methods": [Method.LORA, Method.ADAPTER, Method.PREFIX, Method.NONE],
            "method_penalties": {Method.LORA: 0.8},
        },
    ),
    Configuration("utility-focused", late, {**BUDGET, "objective_weights": {"utility": 0.8, "cost": 0.2}}),
    Configuration("random sensitivity", at_random, BUDGET),
]


def synthetic(configuration: Configuration) -> SyntheticProfile:
    """The profile of a configuration's model."""
    places = [(block, role) for block in range(MINILM.blocks) for role in MINILM.layers]
    return synthesise({place: configuration.sensitivity(*place) for place in places})


def planned(configuration: Configuration) -> tuple[Plan, dict[str, Plan]]:
    """The plan of a configuration and its candidates."""
    made = synthetic(configuration)
    return make_plan(
        made.profile,
        made.arrays,
        made.timing,
        OptimizationConfig(**configuration.options),
        profile_path="synthetic",
        command="python -m examples.seven_configurations",
    )


def mean_rank(plan: Plan, role: Role, *, is_early: bool) -> float:
    """Mean LoRA rank of a role's layers in the first or the second half of the blocks."""
    half = [
        plan.ranks.get(layer.layer, 0)
        for layer in plan.layers
        if layer.role == role and layer.block is not None and (layer.block < MINILM.blocks / 2) == is_early
    ]
    return fmean(half)


def main() -> None:
    table = Table(title=f"seven configurations, {MAX_TRAINABLE_PARAMS:,} parameters; mean rank early → late blocks")
    for column in ("configuration", "spent", "value", "uniform", *MINILM.layers):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for configuration in CONFIGURATIONS:
        plan, _ = planned(configuration)
        halves = [(mean_rank(plan, role, is_early=True), mean_rank(plan, role, is_early=False)) for role in MINILM.layers]
        even = plan.solver.uniform_value
        table.add_row(
            configuration.name,
            f"{plan.budgets[BudgetName.TRAINABLE_PARAMS].spent:,.0f}",
            f"{plan.chosen.value:.4f}",
            "" if even is None else f"{even:.4f}",
            *(f"{first:.1f} → {second:.1f}" for first, second in halves),
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
