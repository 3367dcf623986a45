"""A suite's schema: what it takes, what it refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from layerlens.config.bench import BenchBudget, BenchRates, BenchSuite, BenchTask, RateKind


def content(**changes: Any) -> dict[str, Any]:
    """The least that a suite holds."""
    return {
        "name": "small",
        "models": {"tiny": "folder"},
        "tasks": {"docs": {"data": "stdlib-docs"}},
        "arms": ["full", "uniform"],
        "seeds": [0, 1],
        "budget": {"max_trainable_params": 1000},
    } | changes


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        BenchSuite.model_validate(content(**changes))
    return str(caught.value)


def test_a_models_id_alone_is_short_for_a_model() -> None:
    suite = BenchSuite.model_validate(content(models={"one": "folder", "two": {"id": "hub/name", "tasks": ["docs"]}}))
    assert suite.models["one"].id == "folder"
    assert suite.models["one"].tasks is None
    assert suite.models["two"].tasks == ["docs"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"armss": ["full"]}, "armss"),
        ({"tasks": {"docs": {"data": "x", "metrics": "accuracy"}}}, "tasks.docs.metrics"),
        ({"budget": {"max_trainable_params": 10, "max_params": 1}}, "budget.max_params"),
        ({"learning_rates": {"lora": [1e-3]}}, "learning_rates.lora"),
        ({"training": {"lr": 1e-3}}, "training.lr"),
    ],
)
def test_an_unknown_key_is_named_with_its_place(changes: dict[str, Any], where: str) -> None:
    assert where in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [1, 1]}, "1 stands twice"),
        ({"seeds": [-1]}, "should be greater than or equal to 0"),
        ({"seeds": [2**32]}, "should be less than 4294967296"),
        ({"seeds": []}, "at least one"),
        ({"arms": ["full", "full"]}, "full stands twice"),
        ({"models": {}}, "at least one"),
        ({"tasks": {"a/b": {"data": "x"}}}, "a name takes letters"),
        ({"name": ".."}, "cannot be a folder's"),
        ({"models": {"one": {"id": "x", "tasks": ["mrpc"]}}}, "models.one.tasks: unknown mrpc"),
        ({"training": {"learning_rate": 1e-3}}, "training.learning_rate: is set by the suite itself"),
        ({"profiling": {"max_length": 9}}, "profiling.max_length: is set by each task"),
        ({"race": {"batch_size": 9}}, "race.batch_size: is set by training"),
        ({"planning": {"max_time_ratio": 0.5}}, "max_time_ratio stands under budget"),
        ({"planning": {"ranks": 3}}, "ranks: unknown key"),
        ({"planning": {"max_rank": 1, "min_rank": 2}}, "max_rank 1 is below min_rank 2"),
        ({"report_to": ["wandb"]}, "unknown wandb"),
        ({"learning_rates": {"full": []}}, "at least one rate"),
        ({"learning_rates": {"full": [0.0]}}, "above zero"),
    ],
)
def test_a_fault_is_told_in_words_that_say_what_to_do(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(**changes)


def test_a_budget_is_a_number_or_a_share_and_never_both() -> None:
    assert BenchBudget(max_trainable_params=500).params(1_000_000) == 500
    assert BenchBudget(max_trainable_share=0.005).params(1_000_000) == 5000
    for given in ({}, {"max_trainable_params": 5, "max_trainable_share": 0.1}):
        with pytest.raises(ValidationError, match="give one of"):
            BenchBudget.model_validate(given)


def test_a_grid_is_sorted_and_holds_each_rate_once() -> None:
    rates = BenchRates(full=[1e-3, 1e-5, 1e-3])
    assert rates.grid(RateKind.FULL) == [1e-5, 1e-3]
    assert rates.grid(RateKind.ADAPTER) == rates.adapter


def test_a_split_of_its_own_is_evaluation_data() -> None:
    assert not BenchTask(data="x").has_eval_data
    assert BenchTask(data="x", eval_split="test").has_eval_data
    assert BenchTask(data="x", eval_data="y").has_eval_data
