"""`evaluation.json`: what came out, measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from layerlens.words import SCHEMA_VERSION, Frozen


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
