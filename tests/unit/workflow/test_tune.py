"""What tuning foresees of its arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.plan import Budget, Plan, candidates_folder, save_plan
from layerlens.config import TuneConfig
from layerlens.words import BudgetName
from layerlens.workflow.tune import predicted_times
from tests.unit.reporting import artifacts


def timed(name: str, spent: float, **changes: object) -> Plan:
    plan = artifacts.plan(name)
    return plan.model_copy(update={"budgets": {BudgetName.TIME_RATIO: Budget(limit=0.5, spent=spent)}, **changes})


@pytest.mark.parametrize(("reach", "expected"), [(0, {"layerlens": 0.4, "uniform": 0.5}), (2, {"layerlens": 0.4})])
def test_the_arm_uniform_has_no_price_where_the_planner_s_own_is_cut_short(
    tmp_path: Path, reach: int, expected: dict[str, float]
) -> None:
    plan, uniform = timed("optimum-whitened", 0.4, reach=reach), timed("uniform", 0.5, reach=reach)
    path = tmp_path / "plan.json"
    save_plan(path, plan)
    save_plan(candidates_folder(path) / "uniform.json", uniform)
    assert predicted_times(plan, path, TuneConfig(compare=["uniform"])) == {**expected, "full": 1.0}
