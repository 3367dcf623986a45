"""What tuning foresees of its arms, and which it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.plan import Budget, Plan, candidates_folder, save_plan
from layerlens.config import TuneConfig
from layerlens.errors import ConfigError
from layerlens.words import BudgetName, TaskKind
from layerlens.workflow.tune import predicted_times, tune
from tests.unit.adapting.plans import make_plan, tiny_task_model
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


def test_an_arm_takes_no_price_from_a_candidate_of_its_name(tmp_path: Path) -> None:
    plan, path = timed("optimum-whitened", 0.4), tmp_path / "plan.json"
    save_plan(path, plan)
    for number, name in enumerate(("uniform", "query+value", "mlp", "mlp-top")):
        save_plan(candidates_folder(path) / f"{name}.json", timed(name, 0.1 * number))
    expected = {"layerlens": 0.4, "uniform": 0.0, "mlp-top": 0.1 * 3, "full": 1.0}
    assert predicted_times(plan, path, TuneConfig(compare=["uniform"])) == expected


def test_arms_that_cannot_be_run_are_refused_together_before_the_data_are_opened(tmp_path: Path) -> None:
    kind = TaskKind.CAUSAL_LM
    plan, path = make_plan(tiny_task_model("gpt2", tmp_path / "model", kind), kind, 2), tmp_path / "plan.json"
    save_plan(path, plan)
    config = TuneConfig(compare=["uniform", "head", "adalora"], base="compressed")
    with pytest.raises(ConfigError, match=r"^--compare head: .*; leave head out; --compare adalora: .*; leave adalora out"):
        tune(path, "no such data", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
