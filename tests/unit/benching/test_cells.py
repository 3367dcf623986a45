"""A suite laid out: cells, the config of each run, and how many steps it takes."""

from __future__ import annotations

import pytest

from layerlens.benching.cells import cells_of, data_options, estimated_steps, race_config, training_config
from layerlens.benching.suite_file import selected
from layerlens.config.bench import BenchConfig, BenchTask
from layerlens.errors import ConfigError
from tests.unit.benching.suites import suite


def test_a_model_meets_the_tasks_it_names_or_all() -> None:
    tasks = {"a": {"data": "a"}, "b": {"data": "b"}}
    found = cells_of(suite(tasks=tasks, models={"m": {"id": "x", "tasks": ["b"]}, "n": "y"}))
    assert [(cell.model, cell.task_name) for cell in found] == [("m", "b"), ("n", "a"), ("n", "b")]


def test_a_suite_without_cells_is_refused() -> None:
    tasks = {"a": {"data": "a"}, "b": {"data": "b"}}
    part = selected(suite(tasks=tasks, models={"m": {"id": "x", "tasks": ["b"]}}), BenchConfig(tasks=["a"]))
    with pytest.raises(ConfigError, match="no model meets a task"):
        cells_of(part)


def test_a_tasks_own_settings_go_before_the_suites() -> None:
    task = BenchTask(data="a", max_length=7, batch_size=3, epochs=2.0, max_eval_samples=11)
    config = training_config(suite(), task, seed=5, rate=0.25)
    assert (config.max_length, config.batch_size, config.epochs, config.max_steps) == (7, 3, 2.0, None)
    # A length that a task leaves as it is, is not asked for, and so not refused where a model takes less.
    assert data_options(BenchTask(data="a"))["max_length"] is None
    assert (config.seed, config.learning_rate, config.max_eval_samples) == (5, 0.25, 11)
    plain = training_config(suite(), BenchTask(data="a"), seed=5, rate=0.25)
    assert (plain.batch_size, plain.max_steps) == (8, 4)


def test_the_head_alone_trains_at_the_rate_that_is_tuned() -> None:
    given = suite(training={"max_steps": 4, "head_learning_rate": 5e-5})
    beside = training_config(given, BenchTask(data="a"), seed=0, rate=0.25)
    alone = training_config(given, BenchTask(data="a"), seed=0, rate=0.25, is_head_alone=True)
    assert (beside.head_learning_rate, alone.head_learning_rate) == (5e-5, 0.25)


def test_a_race_trains_as_the_runs_do() -> None:
    given = suite(race={"share": 1.0, "held_out_samples": 9}, training={"batch_size": 8, "max_steps": 4, "weight_decay": 0.5})
    found = race_config(given, BenchTask(data="a", max_length=7), seed=3, rate=0.25, only=["uniform"])
    assert (found.batch_size, found.weight_decay, found.max_length, found.learning_rate, found.seed) == (8, 0.5, 7, 0.25, 3)
    assert (found.tuning_steps, found.share, found.held_out_samples, found.only) == (4, 1.0, 9, ["uniform"])


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        (BenchTask(data="a"), 4),
        (BenchTask(data="a", max_steps=9), 9),
        (BenchTask(data="a", epochs=2.0, max_train_samples=20), 5),
        (BenchTask(data="a", epochs=2.0, max_train_samples=4), 2),
        (BenchTask(data="a", epochs=2.0), None),
    ],
)
def test_steps_are_told_where_they_can_be_without_the_data(task: BenchTask, steps: int | None) -> None:
    assert estimated_steps(suite(), task) == steps
