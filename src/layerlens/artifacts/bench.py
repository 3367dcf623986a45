"""`bench.json`: every run of a suite, and what the arms came to beside each other."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from layerlens.words import SCHEMA_VERSION, Frozen


class BenchRun(Frozen):
    """One arm on one task from one seed."""

    model: str
    task: str
    arm: str
    seed: int
    metrics: dict[str, float] = Field(default={}, description="on the test samples; empty where the run died")
    trainable_params: int = Field(default=0, ge=0, description="head apart; all parameters but the head for full fine-tuning")
    head_params: int = Field(default=0, ge=0)
    train_seconds: float = Field(default=0.0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0, description="highest while training: resident set, or GPU allocation")
    learning_rate: float | None = None
    steps: int | None = None
    frozen_blocks: int = Field(default=0, ge=0, description="blocks at the bottom that no step ran a backward pass through")
    details: dict[str, Any] = Field(default={}, description="what only this arm has to tell: ranks it came to, steps it searched")
    error: str | None = Field(default=None, description="why there are no metrics")


class RateTrial(Frozen):
    """One learning rate on the validation samples."""

    rate: float
    metrics: dict[str, float] = Field(default={}, description="empty where training diverged")


class RateChoice(Frozen):
    """The learning rate of an arm, and what it was chosen from."""

    arm: str
    rate: float
    seed: int
    tuned_on: str = Field(description="the arm whose trials these are: the arm itself, or the one whose rate it takes")
    is_at_edge: bool = Field(description="the best rate is the grid's lowest or highest, so a better one may lie outside")
    trials: list[RateTrial] = []


class Outcome(StrEnum):
    """How an arm stands to another one, by the 95 % interval of their paired differences."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"
    UNKNOWN = "one seed cannot tell"
    """Nor can several whose differences are all the same: without any spread there is no interval."""


class Paired(Frozen):
    """An arm minus another one, seed by seed, in the direction in which more is better."""

    against: str
    seeds: list[int]
    difference: float = Field(description="mean over the seeds; positive where the arm is better")
    interval: list[float] | None = Field(description="95 % interval of the mean by Student's t; none for one seed or no spread")
    t_p_value: float | None = Field(description="two-sided paired t test; none for one seed or without any spread")
    permutation_p_value: float | None = Field(description="two-sided, over every change of the differences' signs")
    least_p_value: float | None = Field(description="the smallest that the permutation test can give with so many seeds")
    outcome: Outcome

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        is_without_spread = self.outcome is Outcome.UNKNOWN and len(self.seeds) > 1
        return "seeds without any spread cannot tell" if is_without_spread else self.outcome.value


class ArmSummary(Frozen):
    """One arm over its seeds."""

    arm: str
    seeds: list[int]
    mean: float
    deviation: float | None = Field(description="standard deviation over seeds; none for one")
    interval: list[float] | None = Field(description="95 % interval of the mean by Student's t; none for one seed")
    trainable_params: int
    head_params: int
    train_seconds: float = Field(description="mean over seeds")
    peak_memory_bytes: int = Field(description="mean over seeds")
    share_of_full: float | None = Field(default=None, description="of full fine-tuning's score, same seeds; above 1 is better")
    time_ratio: float | None = Field(default=None, description="training seconds over full fine-tuning's, same seeds")
    memory_ratio: float | None = Field(default=None, description="peak memory over full fine-tuning's, same seeds")
    paired: list[Paired] = Field(default=[], description="against uniform and full, and against each control for LayerLens")

    def against(self, arm: str) -> Paired | None:
        """The comparison with another arm."""
        return next((found for found in self.paired if found.against == arm), None)


class PlanCost(Frozen):
    """What it took to come to a plan, and what that is beside training."""

    arm: str = Field(description="layerlens, or the variant whose plan this is")
    profile_seconds: float
    plan_seconds: float
    race_seconds: float
    race_steps_share: float | None = Field(default=None, description="steps of the race over steps of one run; none: no race")
    run: str = Field(description="the arm whose run the shares refer to: full where it ran, else layerlens itself")
    share_of_run: float = Field(description="of the seconds of one of the suite's own runs")
    share_of_5000_steps: float = Field(description="of the seconds of 5,000 steps at that run's pace, head fit and scoring apart")

    @property
    def seconds(self) -> float:
        return self.profile_seconds + self.plan_seconds + self.race_seconds


class PlanFacts(Frozen):
    """Which plan a LayerLens arm trained."""

    arm: str
    seed: int | None = Field(description="of the race; none where one race served every seed")
    chosen: str
    params: int
    is_blind: bool | None = Field(description="whether the race could not see; none where none was run")
    verdict: str = ""
    predicted_time_ratio: float | None = Field(default=None, description="training time over full fine-tuning's, as planned")
    is_cut_short: bool = Field(default=False, description="whether a budget keeps even uniform out of the lowest blocks")
    is_as_layerlens: bool = Field(default=False, description="whether a variant's plan is the very one that layerlens trained")


class Cell(Frozen):
    """One model on one task."""

    model: str
    task: str
    metric: str
    is_lower_better: bool
    eval_samples: int
    steps: int
    params_limit: int
    arms: list[ArmSummary]
    rates: list[RateChoice] = []
    plans: list[PlanFacts] = []
    costs: list[PlanCost] = []

    @property
    def name(self) -> str:
        return f"{self.model} on {self.task}"

    def arm(self, name: str) -> ArmSummary | None:
        return next((found for found in self.arms if found.arm == name), None)


class OverallArm(Frozen):
    """One arm over every cell that it and full fine-tuning ran in."""

    arm: str
    cells: int
    share_of_full: float | None = Field(description="mean over cells of the share of full fine-tuning's score")
    least_share_of_full: float | None = Field(description="the cell where it is lowest")
    time_ratio: float | None = Field(description="mean over cells")
    memory_ratio: float | None = Field(description="mean over cells")
    paired: list[Paired] = Field(
        default=[], description="differences of the shares of full's score, each seed's mean over the cells"
    )

    def against(self, arm: str) -> Paired | None:
        """The comparison with another arm."""
        return next((found for found in self.paired if found.against == arm), None)


class Finding(Frozen):
    """One sentence about what came out."""

    topic: str
    text: str
    tone: str = Field(default="plain", description="good, plain, caution or bad")


class Bench(Frozen):
    """The content of `bench.json`."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    description: str = ""
    seeds: list[int]
    arms: list[str]
    cells: list[Cell]
    overall: list[OverallArm] = Field(default=[], description="where there are several cells")
    findings: list[Finding] = []
    runs: list[BenchRun]
    notes: list[str] = Field(default=[], description="how the figures are meant")
    machine: str = ""
    command: str
    versions: dict[str, str] = {}

    @property
    def failed(self) -> list[BenchRun]:
        return [run for run in self.runs if run.error is not None]
