"""The options of `layerlens bench`, and what a suite file holds: models × tasks × arms × seeds."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from layerlens.config.planning import OptimizationConfig
from layerlens.config.profiling import ProfilingConfig
from layerlens.config.spellings import Column, Columns, Names, Seeds, Source
from layerlens.config.training import RaceConfig, TuneConfig
from layerlens.words import Frozen, TaskKind

#: Names become parts of file names.
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
#: Data settings, which each task has for itself.
_OF_TASK = frozenset({"task", "text_columns", "label_column", "split", "max_length", "max_train_samples", "max_eval_samples"})
#: What the suite sets for every job, so that arms differ in nothing else.
_OF_SUITE = frozenset(
    {"seed", "seeds", "eval_data", "learning_rate", "learning_rates", "compare", "report_to", "keep_checkpoints"}
)
_OF_TRAINING = frozenset({"batch_size", "epochs", "tuning_steps", "threads"})
_OF_BUDGET = frozenset({"max_trainable_params", "max_time_ratio"})


def _model_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str | Path) else value


class BenchModel(Frozen):
    """A model of a suite. `minilm: demo` is short for `minilm: {id: demo}`."""

    id: Source = Field(description="a folder, a hub id, or demo for the demo's model")
    tasks: Names | None = Field(default=None, description="the tasks this model meets; all if not given")


class BenchTask(Frozen):
    """A task of a suite: its data, how they are read, and the metric that arms are compared by."""

    data: Source = Field(description="as --data; ${DATA} stands for --data-root")
    eval_data: Source | None = Field(
        default=None, description="test samples, of a source with a test split only that; a seeded part of the data if not given"
    )
    task: TaskKind | None = Field(default=None, description="guessed from the columns and the model if not given")
    text_columns: Columns | None = Field(default=None, description="input columns by name or number")
    label_column: Column | None = Field(default=None, description="label column by name or number")
    split: str | None = Field(default=None, description="split of a hub data set that is trained on")
    eval_split: str | None = Field(default=None, description="split of a hub data set that is tested on")
    max_length: int = Field(default=128, gt=0, description="tokens per sample at most")
    metric: str | None = Field(default=None, description="metric to compare by; the task's first if not given")
    max_train_samples: int | None = Field(default=None, gt=0, description="training samples of a run at most")
    max_eval_samples: int | None = Field(default=None, gt=0, description="test samples at most")
    batch_size: int | None = Field(default=None, gt=0, description="samples per step, where it differs from the suite's")
    epochs: float | None = Field(default=None, gt=0, description="passes, where they differ from the suite's")
    max_steps: int | None = Field(default=None, gt=0, description="steps of a run, where they differ from the suite's")

    @property
    def has_eval_data(self) -> bool:
        return self.eval_data is not None or self.eval_split is not None


class BenchBudget(Frozen):
    """What every arm with a budget may train, head apart."""

    max_trainable_params: int | None = Field(default=None, gt=0, description="adapter parameters at most")
    max_trainable_share: float | None = Field(default=None, gt=0, le=1, description="the same as a share of the model")
    max_time_ratio: float = Field(
        default=0.5, gt=0, description="training time of the arm layerlens-time, as a share of full fine-tuning"
    )

    @model_validator(mode="after")
    def _is_given_once(self) -> BenchBudget:
        if (self.max_trainable_params is None) == (self.max_trainable_share is None):
            raise ValueError("give one of max_trainable_params and max_trainable_share")
        return self

    def params(self, model_parameters: int) -> int:
        """Adapter parameters at most, for a model of so many parameters."""
        if self.max_trainable_params is not None:
            return self.max_trainable_params
        return max(1, int((self.max_trainable_share or 0.0) * model_parameters))


class RateKind(StrEnum):
    """Arms that share a grid of learning rates."""

    FULL = "full"
    HEAD = "head"
    ADAPTER = "adapter"


class BenchRates(Frozen):
    """The grids of learning rates, and who is tuned on them. Rates are tuned on validation samples, from the first seed."""

    full: list[float] = Field(default=[2e-5, 5e-5, 1e-4, 2e-4], description="grid of full fine-tuning")
    head: list[float] = Field(default=[1e-4, 1e-3, 5e-3], description="grid of the head alone")
    adapter: list[float] = Field(default=[5e-4, 1e-3, 3e-3], description="grid of every arm that trains adapters")
    tuned: Literal["arm", "kind"] = Field(
        default="arm", description="tune every arm (searches take uniform's rate), or one arm of each grid for all others"
    )
    select_by: Literal["metric", "loss"] = Field(default="metric", description="the rate that is best in this is taken")
    samples: int = Field(default=512, gt=1, description="validation samples at most")

    @field_validator("full", "head", "adapter")
    @classmethod
    def _is_a_grid(cls, value: list[float]) -> list[float]:
        if not value or any(rate <= 0 for rate in value):
            raise ValueError("give at least one rate, each above zero")
        # A trial's folder is called by its rate to six digits.
        if len({f"{rate:g}" for rate in value}) < len(set(value)):
            raise ValueError("two rates are the same to six digits; leave one out")
        return sorted(set(value))

    def grid(self, kind: RateKind) -> list[float]:
        return {RateKind.FULL: self.full, RateKind.HEAD: self.head, RateKind.ADAPTER: self.adapter}[kind]


class BenchSuite(Frozen):
    """A suite file: every model meets every task it names, with every arm, from every seed."""

    name: str = Field(description="of the suite; its folder is called so")
    description: str = Field(default="", description="one or two sentences for the reader of the results")
    models: dict[str, Annotated[BenchModel, BeforeValidator(_model_id)]] = Field(description="models by name")
    tasks: dict[str, BenchTask] = Field(description="tasks by name")
    arms: Names = Field(description="what is compared")
    seeds: Seeds = Field(description="every arm runs from each of these")
    budget: BenchBudget = Field(description="what arms with a budget may train")
    training: TuneConfig = Field(default=TuneConfig(threads=1), description="batch size, steps or epochs, and the optimiser")
    learning_rates: BenchRates = Field(default=BenchRates(), description="grids and how rates are tuned on them")
    profiling: ProfilingConfig = Field(default=ProfilingConfig(), description="options of the profile")
    planning: dict[str, Any] = Field(default={}, description="options of the plan beside its budget")
    race: RaceConfig = Field(default=RaceConfig(), description="options of the race")
    race_each_seed: bool = Field(default=False, description="race anew from each seed; once, from the first, if not")
    query_value_rank: int = Field(default=8, gt=0, description="rank of the arm query+value, whatever the budget")
    report_to: Names = Field(default=[], description="trackers that get every run: mlflow")

    @field_validator("models", "tasks")
    @classmethod
    def _names_can_name_files(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("give at least one")
        if bad := [name for name in value if NAME.fullmatch(name) is None]:
            raise ValueError(f"{', '.join(bad)}: a name takes letters, digits and . _ + -")
        return value

    @field_validator("arms", "seeds")
    @classmethod
    def _are_distinct(cls, value: list[Any]) -> list[Any]:
        if not value:
            raise ValueError("give at least one")
        if twice := sorted({str(entry) for entry in value if value.count(entry) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice")
        return value

    @field_validator("planning")
    @classmethod
    def _plans(cls, value: dict[str, Any]) -> dict[str, Any]:
        if owned := sorted(set(value) & _OF_BUDGET):
            raise ValueError(f"{', '.join(owned)} stands under budget")
        try:
            OptimizationConfig(max_trainable_params=1, **value)
        except ValidationError as error:
            raise ValueError("; ".join(_fault(fault) for fault in error.errors(include_url=False))) from error
        return value

    @field_validator("report_to")
    @classmethod
    def _is_known_tracker(cls, value: list[str]) -> list[str]:
        if unknown := sorted(set(value) - {"mlflow"}):
            raise ValueError(f"unknown {', '.join(unknown)}; known is mlflow")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> BenchSuite:
        faults = []
        if NAME.fullmatch(self.name) is None:
            faults.append(f"name: {self.name!r} cannot be a folder's; take letters, digits and . _ + -")
        for name, model in self.models.items():
            if unknown := [task for task in model.tasks or [] if task not in self.tasks]:
                faults.append(f"models.{name}.tasks: unknown {', '.join(unknown)}; the suite has {', '.join(self.tasks)}")
        owned = {"training": _OF_TASK | _OF_SUITE, "profiling": _OF_TASK | _OF_SUITE, "race": _OF_TASK | _OF_SUITE | _OF_TRAINING}
        for part, names in owned.items():
            for name in sorted(getattr(self, part).model_fields_set & names):
                where = "each task" if name in _OF_TASK else "training" if name in _OF_TRAINING else "the suite itself"
                faults.append(f"{part}.{name}: is set by {where}, not here")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class BenchConfig(Frozen):
    """How a suite is run, and on what part of it; nothing here changes what a run measures."""

    data_root: Source | None = Field(
        default=None, description="what ${DATA} stands for in the suite; the variable LAYERLENS_DATA if not given"
    )
    model_root: Source | None = Field(
        default=None, description="what ${MODELS} stands for; LAYERLENS_MODELS if not given, else models beside the data root"
    )
    processes: int = Field(
        default=1, ge=0, description="runs at a time, each in a process of its own; 0 runs all in this one, for finding faults"
    )
    engine: Literal["local", "ray"] = Field(default="local", description="who starts the processes: this machine, or Ray")
    models: Names | None = Field(default=None, description="only these models of the suite")
    tasks: Names | None = Field(default=None, description="only these tasks of the suite")
    arms: Names | None = Field(default=None, description="these arms instead of the suite's")
    seeds: Seeds | None = Field(default=None, description="these seeds instead of the suite's")
    extend: bool = Field(
        default=False,
        description="let a folder's suite gain or lose models, tasks, arms, seeds or rates; what both have must be the same",
    )


def _fault(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    text = "unknown key" if fault["type"] == "extra_forbidden" else str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {text}" if where else text
