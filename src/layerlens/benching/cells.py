"""A suite laid out: its cells (a model on a task), the runs in them, and how many steps each takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from layerlens.config import RaceConfig, TuneConfig
from layerlens.config.bench import BenchSuite, BenchTask
from layerlens.config.data import DEFAULT_MAX_LENGTH
from layerlens.errors import ConfigError


@dataclass(frozen=True)
class CellPlace:
    """A model on a task, before anything is known about it."""

    model: str
    model_id: str
    task_name: str
    task: BenchTask

    @property
    def name(self) -> str:
        """Its folder; names hold no path separator."""
        return f"{self.model}@{self.task_name}"

    @property
    def title(self) -> str:
        return f"{self.model} on {self.task_name}"


def cells_of(suite: BenchSuite) -> list[CellPlace]:
    """Every model with every task that it meets, in the suite's order.

    Raises:
        ConfigError: there is none.
    """
    found = [
        CellPlace(model_name, model.id, task_name, task)
        for model_name, model in suite.models.items()
        for task_name, task in suite.tasks.items()
        if model.tasks is None or task_name in model.tasks
    ]
    if not found:
        raise ConfigError(f"suite {suite.name}: no model meets a task; see `models` and `tasks`")
    return found


def data_options(task: BenchTask) -> dict[str, Any]:
    """A task's options as every command's config takes them."""
    names = ("task", "text_columns", "label_column", "split")
    # A model that takes fewer tokens than the default cuts there; what was asked for it would refuse.
    asked = None if task.max_length == DEFAULT_MAX_LENGTH else task.max_length
    return {name: getattr(task, name) for name in names} | {"max_length": asked}


def training_config(suite: BenchSuite, task: BenchTask, *, seed: int, rate: float, is_head_alone: bool = False) -> TuneConfig:
    """How one run trains.

    Args:
        suite: Its training options.
        task: Its data and, where they differ, its batch size and length of training.
        seed: Of the run.
        rate: Peak learning rate of the arm.
        is_head_alone: Whether the head is all that trains, so that the rate is the head's.
    """
    given: dict[str, Any] = {
        name: getattr(task, name)
        for name in ("batch_size", "epochs", "max_steps", "max_train_samples", "max_eval_samples")
        if getattr(task, name) is not None
    }
    if task.epochs is not None and task.max_steps is None:
        given["max_steps"] = None
    if is_head_alone and suite.training.head_learning_rate is not None:
        given["head_learning_rate"] = rate
    own = {"seed": seed, "learning_rate": rate, "threads": suite.training.threads or 1}
    return suite.training.model_copy(update=data_options(task) | given | own)


def race_config(suite: BenchSuite, task: BenchTask, *, seed: int, rate: float, only: list[str] | None) -> RaceConfig:
    """How candidates race: trained as the runs are, with the suite's own options of a race on top."""
    training = training_config(suite, task, seed=seed, rate=rate)
    names = RaceConfig.model_fields.keys() & TuneConfig.model_fields.keys()
    shared = {name: getattr(training, name) for name in names} | {"tuning_steps": training.max_steps}
    own = {name: getattr(suite.race, name) for name in suite.race.model_fields_set}
    return RaceConfig.model_validate(shared | own | ({} if only is None else {"only": only}))


def estimated_steps(suite: BenchSuite, task: BenchTask) -> int | None:
    """Steps of one run, at most, as far as they can be told without opening the data; None where they depend on it."""
    config = training_config(suite, task, seed=suite.seeds[0], rate=1.0)
    if config.max_steps is not None:
        return config.max_steps
    if config.max_train_samples is None:
        return None
    return max(1, math.ceil(config.epochs * config.max_train_samples / min(config.batch_size, config.max_train_samples)))
