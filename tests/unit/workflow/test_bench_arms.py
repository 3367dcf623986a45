"""Which arms a suite may name, and whose learning rate each takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from layerlens.adapting.arms.names import ArmName
from layerlens.config import OptimizationConfig, ProfilingConfig
from layerlens.config.bench import BenchBudget, RateKind
from layerlens.errors import ConfigError
from layerlens.workflow import bench_arms
from layerlens.workflow.bench_arms import VARIANTS, Variant, check_arms, kind_of, known_arms, planning_of, tuned_for


def test_every_arm_that_can_be_run_is_known() -> None:
    assert set(ArmName) <= set(known_arms())
    assert {"layerlens-time", "no-depth-cut"} <= set(known_arms())
    assert len(known_arms()) == len(set(known_arms()))


def test_an_unknown_arm_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        check_arms(["uniform", "unifrom", "fulll"])
    assert "unknown arm unifrom, fulll; known are" in str(caught.value)
    for name in known_arms():
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_process_that_starts_runs_needs_no_torch() -> None:
    code = "import sys, layerlens.workflow.bench; print({'torch', 'peft', 'transformers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_a_search_without_optuna_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_arms, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"arms: search and search-10x need optuna, which is not installed; pip install"):
        check_arms(["uniform", "search", "search-10x"])
    check_arms(["uniform", "layerlens"])


def test_a_variant_whose_switch_does_not_exist_is_not_known() -> None:
    assert not Variant(profiling={"a_switch_of_the_future": False}).is_switchable
    assert Variant(profiling={"damping": 0.2}, planning={"min_rank": 2}).is_switchable
    for variant in VARIANTS.values():
        assert variant.profiling.keys() <= ProfilingConfig.model_fields.keys()
        assert variant.planning.keys() <= OptimizationConfig.model_fields.keys()


def test_each_arm_has_its_own_grid() -> None:
    assert [kind_of(arm) for arm in ("full", "head", "uniform", "layerlens-time")] == [
        RateKind.FULL,
        RateKind.HEAD,
        RateKind.ADAPTER,
        RateKind.ADAPTER,
    ]


def test_a_search_takes_uniforms_rate_and_all_else_its_own_unless_kinds_share() -> None:
    arms = ["full", "head", "mlp", "search", "layerlens"]
    assert [tuned_for(arm, arms, per_kind=False) for arm in arms] == ["full", "head", "mlp", "uniform", "layerlens"]
    assert [tuned_for(arm, arms, per_kind=True) for arm in arms] == ["full", "head", "uniform", "uniform", "uniform"]


def test_only_the_timed_variant_has_a_budget_of_time() -> None:
    budget = BenchBudget(max_trainable_share=0.01, max_time_ratio=0.25)
    timed = planning_of(VARIANTS["layerlens-time"], budget, {"min_rank": 2}, 10_000)
    plain = planning_of(VARIANTS["layerlens"], budget, {"min_rank": 2}, 10_000)
    assert (timed.max_trainable_params, timed.max_time_ratio, timed.min_rank) == (100, 0.25, 2)
    assert (plain.max_trainable_params, plain.max_time_ratio) == (100, None)
