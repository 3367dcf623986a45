"""`evaluation.json`: what came out, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from layerlens.words import SCHEMA_VERSION, Frozen

#: Its name in the folder of a run or of a compressed model.
EVALUATION_FILE = "evaluation.json"
#: The arm that trains every parameter; times and memory are shares of its own.
FULL = "full"


class LossPoint(Frozen):
    """One logged point of a training run."""

    step: int
    loss: float


class Arm(Frozen):
    """One way to fine-tune, as it was run and scored once."""

    name: str
    metrics: dict[str, float] = Field(description="on the evaluation samples, after training; loss in nats")
    trainable_params: int = Field(ge=0, description="adapter parameters, head apart (all parameters for full fine-tuning)")
    head_params: int = Field(default=0, ge=0)
    train_seconds: float = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0, description="highest resident set (CPU) or allocation (GPU) while training")
    seed: int
    learning_rate: float | None = None
    steps: int | None = None
    loss_curve: list[LossPoint] = []
    epochs: float | None = Field(default=None, description="passes over the training samples")
    frozen_blocks: int = Field(default=0, ge=0, description="blocks at the bottom that no step ran a backward pass through")
    kept_bytes: int = Field(default=0, ge=0, description="hidden states above the frozen blocks, kept from the first epoch")
    predicted_time_ratio: float | None = Field(default=None, description="training time over full fine-tuning's, as planned")
    time_ratio: float | None = Field(
        default=None, description="training time over that of the full fine-tuning of the same seed in this run, as measured"
    )
    details: dict[str, Any] = Field(default={}, description="what only this arm has to tell: ranks it came to, steps it searched")


class Evaluation(Frozen):
    """The content of `evaluation.json`."""

    schema_version: int = SCHEMA_VERSION
    model: str
    task: str
    eval_samples: int
    primary_metric: str = Field(description="the metric that ranks the arms; higher is better unless it is a loss")
    arms: list[Arm]
    command: str
    versions: dict[str, str] = {}
    machine: str = ""
    details: dict[str, Any] = {}


def with_time_ratios(arms: Sequence[Arm], predicted: Mapping[str, float]) -> list[Arm]:
    """Note each arm's training time as a share of full fine-tuning's: as it was predicted, and as it was measured.

    Args:
        arms: Of one run; those of a seed without full fine-tuning get no measured ratio.
        predicted: What the plan of an arm foresaw, by the arm's name.
    """
    full = {arm.seed: arm.train_seconds for arm in arms if arm.name == FULL and arm.train_seconds > 0}
    return [
        arm.model_copy(
            update={
                "predicted_time_ratio": predicted.get(arm.name),
                "time_ratio": arm.train_seconds / full[arm.seed] if arm.seed in full else None,
            }
        )
        for arm in arms
    ]


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value of a metric is the better one."""
    return metric == "perplexity" or "loss" in metric or "error" in metric
