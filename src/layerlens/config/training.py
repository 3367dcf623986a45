"""The options of `layerlens race` and `layerlens tune`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from layerlens.config.data import DataConfig
from layerlens.config.spellings import Bytes, Names, Seeds, Source, split_pairs

#: What training did before there was an option for it, where it does otherwise by default since; older records lack the option.
ONCE: Mapping[str, Any] = {"dropout": True}

Rates = Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(split_pairs)]


class Precision(StrEnum):
    """Arithmetic of training: auto takes bf16 autocast where the processor has it, else float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class BaseFormat(StrEnum):
    """How the frozen base is held while adapters train over it: in its own numbers, or in 8 or 4 bits by a library."""

    AS_IS = "as-is"
    INT8_TORCHAO = "int8-torchao"
    INT8_BNB = "int8-bnb"
    INT4_BNB = "int4-bnb"


class TrainingConfig(DataConfig):
    """How adapters are trained, in a race and for good."""

    eval_data: Source | None = Field(
        default=None,
        description="data for the final evaluation: their test split where they have one; a seeded split if not given",
    )
    batch_size: int = Field(default=16, gt=0, description="samples per step")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of head and pooler beside adapters; if not given, 1/20 where pretrained, else the same",
    )
    loraplus_lr_ratio: float = Field(
        default=1.0, gt=0, description="learning rate of LoRA's second factor B as a multiple of that of the first (LoRA+)"
    )
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, description="share of the steps that the learning rate rises for")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(default=1.0, gt=0, description="norm that a step's gradients are clipped to")
    dropout: bool = Field(
        default=False, description="train with the model's own dropout, which takes more time and memory than plans foresee"
    )
    precision: Precision = Field(
        default=Precision.AUTO, description="arithmetic of training; auto takes bf16 where the processor has it"
    )
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    max_train_samples: int | None = Field(default=None, gt=0, description="use only so many training samples, a seeded choice")
    max_eval_samples: int | None = Field(default=None, gt=0, description="use only so many evaluation samples, a seeded choice")
    base_format: BaseFormat = Field(
        default=BaseFormat.AS_IS,
        description="how the frozen base is held: as-is, int8-torchao, int8-bnb or int4-bnb (torchao and bitsandbytes)",
    )
    base: Source | None = Field(
        default=None, description="folder that `layerlens compress` made of the plan's model, trained over in its place"
    )
    fit_head: bool = Field(default=True, description="fit a random head on frozen features before training")
    keep_in_memory: Bytes = Field(
        default=64 << 20,
        ge=0,
        description="hidden states above the frozen blocks are kept in memory up to this size, beyond it in a file of the run",
    )
    keep_at_most: Bytes = Field(
        default=16 << 30, ge=0, description="beyond this size nothing is kept: the frozen blocks run again in every epoch"
    )

    @model_validator(mode="after")
    def _has_one_base(self) -> TrainingConfig:
        if self.base is not None and self.base_format is not BaseFormat.AS_IS:
            raise ValueError(f"base is in a format of its own, so base_format {self.base_format} cannot be had; leave one out")
        return self


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
    share_at_most: Bytes = Field(
        default=512 << 20, ge=0, description="memory for hidden states that runs with the same frozen blocks share"
    )
    may_extend: bool = Field(default=False, description="run longer where the race is blind")
    only: Names | None = Field(default=None, description="race only these candidates; uniform always runs")


class TuneConfig(TrainingConfig):
    """How `layerlens tune` trains the plan, and what it compares it with."""

    epochs: float = Field(default=3.0, gt=0, description="passes over the training samples")
    max_steps: int | None = Field(default=None, gt=0, description="training steps; overrides epochs")
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, more time"
    )
    report_to: Names = Field(default=[], description="trackers the Trainer reports to: mlflow, tensorboard, wandb")
    save_steps: int = Field(default=100, gt=0, description="steps between checkpoints that an interrupted run resumes from")
    compare: Names = Field(
        default=[],
        description="arms to run beside the plan: full, head, uniform, query+value, mlp, adalora, eva, random, shuffled, "
        "top-gradient, gradient-init, uniform-rslora, search, search-10x, no-race, or a candidate's name",
    )
    learning_rates: Rates = Field(default={}, description="learning rate of an arm by name, where it differs: full=5e-5,…")
    seeds: Seeds | None = Field(default=None, description="run every arm with each of these seeds; the one seed if not given")
    keep_checkpoints: bool = Field(default=False, description="keep the training checkpoints after the run has ended")

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, value: list[int] | None) -> list[int] | None:
        if twice := sorted({seed for seed in value or () if (value or []).count(seed) > 1}):
            raise ValueError(f"{', '.join(map(str, twice))} stands twice, and one run counts once")
        return value
