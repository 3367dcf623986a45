"""Configs check themselves, and say everything that is wrong at once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from layerlens.config import PREDECESSOR_WEIGHTS, OptimizationConfig, ProfilingConfig, RaceConfig, TuneConfig, default_max_rank
from layerlens.words import Method


def test_defaults_are_the_issues_metric_weights() -> None:
    assert ProfilingConfig().metric_weights == {"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}


@pytest.mark.parametrize("budget", [0, -1])
@pytest.mark.parametrize("name", ["max_trainable_params", "max_flops", "max_vram_gb", "latency_target_ms", "max_time_ratio"])
def test_a_budget_of_zero_or_less_is_refused(name: str, budget: int) -> None:
    with pytest.raises(ValidationError, match="above zero"):
        OptimizationConfig(**{name: budget})


def test_a_plan_without_any_budget_is_refused() -> None:
    with pytest.raises(ValidationError, match="no budget"):
        OptimizationConfig()


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        OptimizationConfig(max_flops=-1, method_penalties={"lora": 0}, objective_weights={"utility": 1, "beauty": 2})
    assert {error["loc"][0] for error in caught.value.errors()} == {"max_flops", "method_penalties", "objective_weights"}


def test_the_command_lines_spellings_mean_the_same_as_pythons() -> None:
    typed = OptimizationConfig(
        max_flops="1e9", candidate_methods="lora,none", method_penalties="lora=0.8", objective_weights="predecessor"
    )
    assert typed.candidate_methods == [Method.LORA, Method.NONE]
    assert typed.method_penalties == {Method.LORA: 0.8}
    assert typed.objective_weights == PREDECESSOR_WEIGHTS
    assert typed.max_flops == 1e9


def test_a_penalty_of_a_method_that_is_no_candidate_is_refused() -> None:
    with pytest.raises(ValidationError, match="adapter is no candidate method, so its penalty would do nothing"):
        OptimizationConfig(max_flops=1e9, method_penalties={Method.LORA: 0.8, Method.ADAPTER: 0.9})
    with pytest.raises(ValidationError, match="none has no value, so a penalty would do nothing"):
        OptimizationConfig(max_flops=1e9, method_penalties={Method.NONE: 2.0})
    assert OptimizationConfig(max_flops=1e9, method_penalties={Method.LORA: 0.8, Method.NONE: 1.0})


@pytest.mark.parametrize(
    "options",
    [
        {"max_candidates": 1},
        {"alpha_over_rank": 1e308},
        {"method_penalties": {"lora": 1e-320}},
        {"objective_weights": {"utility": 1e-320}},
        {"max_vram_gb": 1e300},
        {"max_trainable_params": 10**400},
    ],
)
def test_numbers_that_nobody_means_are_refused_before_they_overflow(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        OptimizationConfig.model_validate({"max_flops": 1e9, **options})
    assert [error["loc"][0] for error in caught.value.errors()] == list(options)


def test_columns_may_be_numbers() -> None:
    config = ProfilingConfig(text_columns="3", label_column=1)
    assert config.text_columns == ["3"]
    assert config.label_column == "1"
    # A YAML file reads them as numbers.
    for given, meant in (([0, "b", 2], ["0", "b", "2"]), (0, ["0"])):
        assert ProfilingConfig.model_validate({"text_columns": given}).text_columns == meant


@pytest.mark.parametrize("rate", ["0", "-1", "nan"])
def test_the_learning_rate_of_an_arm_is_above_zero(rate: str) -> None:
    assert TuneConfig.model_validate({"learning_rates": "full=5e-5, uniform=1"}).learning_rates == {"full": 5e-5, "uniform": 1.0}
    with pytest.raises(ValidationError, match=r"learning_rates\.uniform"):
        TuneConfig.model_validate({"learning_rates": f"full=5e-5,uniform={rate}"})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        RaceConfig(shares=0.2)


def test_metrics_need_weights() -> None:
    with pytest.raises(ValidationError, match="all are zero"):
        ProfilingConfig(metrics=["fisher"], metric_weights={"fisher": 0.0})
    with pytest.raises(ValidationError, match="unknown beauty"):
        ProfilingConfig(metrics=["beauty"])
    with pytest.raises(ValidationError, match="proxy: off, but of metrics only proxy_eval has a weight"):
        ProfilingConfig(metrics=["fisher", "proxy_eval"], metric_weights={"fisher": 0.0, "proxy_eval": 1.0}, proxy="off")


def test_seeds_are_read_from_commas() -> None:
    assert TuneConfig(seeds="0,1,2").seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("seeds", "-1", "greater than or equal to 0"),
        ("seeds", "0,4294967296", "less than 4294967296"),
        ("seed", 1 << 32, "less than 4294967296"),
        ("seeds", "0,1,0", "0 stands twice"),
    ],
)
def test_a_seed_that_no_generator_takes_is_refused_and_one_that_stands_twice(option: str, value: object, fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        TuneConfig.model_validate({option: value})


@pytest.mark.parametrize(("hidden", "rank"), [(384, 38), (64, 6), (5, 1)])
def test_ranks_end_at_a_tenth_of_the_hidden_size(hidden: int, rank: int) -> None:
    assert default_max_rank(hidden) == rank
