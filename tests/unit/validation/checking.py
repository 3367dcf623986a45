"""Small changes to a synthetic plan, and the check to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerlens.artifacts.plan import Plan, PlanLayer
from layerlens.artifacts.validation import Check

Change = Callable[[int, PlanLayer], dict[str, Any]]


def check_named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def with_layers(plan: Plan, change: Change) -> Plan:
    """Change fields of every layer; sums are left as they were."""
    layers = [entry.model_copy(update=change(number, entry)) for number, entry in enumerate(plan.layers)]
    return plan.model_copy(update={"layers": layers})


def with_options(plan: Plan, **options: Any) -> Plan:
    """Change options that the plan was made with."""
    changed = plan.metadata.model_copy(update={"optimization": {**plan.metadata.optimization, **options}})
    return plan.model_copy(update={"metadata": changed})
