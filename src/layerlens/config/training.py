"""The options of `layerlens race` and `layerlens tune`."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from layerlens.config.data import DataConfig
from layerlens.config.spellings import Integers, Names, Numbers


class Precision(StrEnum):
    """Arithmetic of training: auto takes bf16 autocast where the processor has it, else float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class TrainingConfig(DataConfig):
    """How adapters are trained, in a race and for good."""

    eval_data: str | None = Field(default=None, description="data for the final evaluation; a seeded split if not given")
    batch_size: int = Field(default=16, gt=0, description="samples per step")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of head and pooler beside adapters; if not given, 1/20 where pretrained, else the same",
    )
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, description="share of the steps that the learning rate rises for")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping")
    precision: Precision = Field(default=Precision.AUTO, description="arithmetic of training")
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    max_train_samples: int | None = Field(default=None, gt=0, description="use only so many training samples, a seeded choice")
    max_eval_samples: int | None = Field(default=None, gt=0, description="use only so many evaluation samples, a seeded choice")
    fit_head: bool = Field(default=True, description="fit a random head on frozen features before training")


class RaceConfig(TrainingConfig):
    """How candidates race."""

    share: float = Field(
        default=0.1, gt=0, le=10, description="steps of the race as a share of the tuning run's; above 1 where runs are short"
    )
    tuning_steps: int | None = Field(
        default=None, gt=0, description="steps of the tuning run; from epochs and the data if not given"
    )
    epochs: float = Field(default=3.0, gt=0, description="epochs of the tuning run that the share refers to")
    min_steps: int = Field(default=20, gt=0, description="steps of a finalist at least")
    num_seeds: int = Field(default=2, ge=2, description="seeds of a finalist")
    held_out_samples: int = Field(default=256, gt=7, description="samples that decide the race")
    max_seconds: float | None = Field(default=None, gt=0, description="stop starting new runs after so many seconds")
    may_extend: bool = Field(default=False, description="run longer where the race is blind")
    only: Names | None = Field(default=None, description="race only these candidates; uniform always runs")


class TuneConfig(TrainingConfig):
    """How `layerlens tune` trains the plan, and what it compares it with."""

    epochs: float = Field(default=3.0, gt=0, description="passes over the training samples")
    max_steps: int | None = Field(default=None, gt=0, description="training steps; overrides epochs")
    report_to: Names = Field(default=[], description="trackers the Trainer reports to: mlflow, tensorboard, wandb")
    save_steps: int = Field(default=100, gt=0, description="steps between checkpoints that an interrupted run resumes from")
    compare: Names = Field(
        default=[], description="arms to run beside the plan: full, uniform, query+value, head, or a candidate's name"
    )
    learning_rates: Numbers = Field(default={}, description="learning rate of an arm by name, where it differs: full=5e-5,…")
    seeds: Integers | None = Field(default=None, description="run every arm with each of these seeds; the one seed if not given")
    keep_checkpoints: bool = Field(default=False, description="keep the training checkpoints after the run has ended")
