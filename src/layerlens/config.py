"""Every option of every command, once: the same frozen models feed the command line, a YAML file and Python.

A field's description becomes its `--help`. Field names with underscores become flags with dashes.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from layerlens.words import Frozen, Method, TaskKind

#: Objective weights of the predecessor: utility, and each cost as a share of its budget.
PREDECESSOR_WEIGHTS = {"utility": 0.5, "cost": 0.2, "flops": 0.1, "vram": 0.1, "latency": 0.1}
OBJECTIVE_TERMS = ("utility", "cost", "flops", "vram", "latency")


#: Presets that a person may name instead of a mapping.
WEIGHT_PRESETS = {"default": {"utility": 1.0}, "predecessor": PREDECESSOR_WEIGHTS}


def _split_commas(value: Any) -> Any:
    """`a,b` from the command line is the list [a, b]."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_pairs(value: Any) -> Any:
    """`a=1,b=2` from the command line is the mapping {a: 1, b: 2}."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"write NAME=NUMBER,NAME=NUMBER; {', '.join(bad)} has no =")
    return {name.strip(): number.strip() for name, _, number in pairs}


_BYTE_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}{rest}": 1 << 10 * (1 + at) for at, letter in enumerate("KMGT") for rest in ("", "B", "IB")},
}


def _bytes(value: Any) -> Any:
    """`1.5GB` is a number of bytes; units are powers of 1,024."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].upper() not in _BYTE_UNITS:
        raise ValueError(f"write a number of bytes such as 500MB or 1.5GB; got {value!r}")
    return int(float(found[1]) * _BYTE_UNITS[found[2].upper()])


def _named_weights(value: Any) -> Any:
    return WEIGHT_PRESETS[value] if isinstance(value, str) and value in WEIGHT_PRESETS else _split_pairs(value)


Bytes = Annotated[int, BeforeValidator(_bytes)]
Names = Annotated[list[str], BeforeValidator(_split_commas)]
Methods = Annotated[list[Method], BeforeValidator(_split_commas)]
Numbers = Annotated[dict[str, float], BeforeValidator(_split_pairs)]
Weights = Annotated[dict[str, float], BeforeValidator(_named_weights)]
Penalties = Annotated[dict[Method, float], BeforeValidator(_split_pairs)]
Column = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class FisherLabels(StrEnum):
    """Whose labels the Fisher information is taken at."""

    EMPIRICAL = "empirical"
    TRUE = "true"


class Precision(StrEnum):
    """Arithmetic of training: auto takes bf16 autocast where the processor has it, else float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class DataConfig(Frozen):
    """How a data set is read and split."""

    task: TaskKind | None = Field(default=None, description="what to learn; guessed from the columns and the model if not given")
    text_columns: Names | None = Field(default=None, description="input columns by name, or by number from 0 without a header")
    label_column: Column | None = Field(default=None, description="label column by name, or by number from 0 without a header")
    split: str | None = Field(default=None, description="split of a hub data set to read; train if not given")
    max_length: int = Field(
        default=128, gt=0, description="tokens per sample at most; longer ones are cut, longer text is windowed"
    )
    seed: int = Field(default=0, ge=0, description="seed of every random choice")


class ProfilingConfig(DataConfig):
    """What `layerlens profile` measures, and on how much data."""

    metrics: Names = Field(default=["gradient_energy", "fisher", "proxy_eval"], description="metrics that enter the utility")
    metric_weights: Numbers = Field(
        default={"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}, description="weight of each metric in the utility"
    )
    num_samples: int = Field(default=512, gt=1, description="calibration samples")
    batch_size: int = Field(default=16, gt=0, description="samples per batch of the statistics pass")
    gram_tokens: int = Field(
        default=4096,
        gt=0,
        description="rows of the Grams at most: tokens, or random sums of a sample's tokens where there are more",
    )
    fisher_labels: FisherLabels = Field(
        default=FisherLabels.EMPIRICAL, description="labels of the Fisher: of the data, or sampled"
    )
    damping: float = Field(default=0.1, gt=0, description="ridge on each Gram, as a share of its mean eigenvalue")
    max_rank: int | None = Field(default=None, gt=0, description="longest gain curve; hidden size / 10 if not given")
    head_samples: int = Field(default=512, gt=0, description="samples that a random task head is fitted on")
    proxy: Literal["auto", "all", "few", "off"] = Field(
        default="auto", description="measure proxy_eval on all layers, a few per role, none, or all where that is cheap"
    )
    proxy_steps: int = Field(default=4, gt=0, description="training steps of one proxy")
    proxy_batch_size: int = Field(default=8, gt=0, description="samples per step of a proxy")
    proxy_held_out: int = Field(default=32, gt=1, description="held-out samples a proxy is scored on")
    proxy_rank: int = Field(default=4, gt=0, description="rank of a proxy's adapter")
    proxy_learning_rate: float = Field(default=2e-3, gt=0, description="learning rate of a proxy")
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    execution: Literal["auto", "memory", "stream"] = Field(
        default="auto", description="hold the model in memory, stream it block by block, or stream what would not fit comfortably"
    )
    max_memory: Bytes | None = Field(
        default=None, gt=0, description="peak memory of the whole process at most, such as 2GB (powers of 1,024)"
    )
    max_store: Bytes = Field(
        default=1 << 30,
        gt=0,
        description="disk for hidden states while streaming at most; with less, blocks are computed again more often",
    )

    @model_validator(mode="after")
    def _weights_name_metrics(self) -> ProfilingConfig:
        unknown = sorted(set(self.metrics) - {"gradient_energy", "fisher", "proxy_eval"})
        if unknown:
            raise ValueError(f"metrics: unknown {', '.join(unknown)}; known are gradient_energy, fisher, proxy_eval")
        if not self.metrics:
            raise ValueError("metrics: at least one is needed")
        missing = [name for name in self.metrics if self.metric_weights.get(name, 0.0) < 0 or name not in self.metric_weights]
        if missing:
            raise ValueError(f"metric_weights: no weight of 0 or more for {', '.join(missing)}")
        if sum(self.metric_weights[name] for name in self.metrics) <= 0:
            raise ValueError("metric_weights: all are zero")
        return self


class OptimizationConfig(Frozen):
    """Budgets, methods and preferences of a plan. At least one budget is needed."""

    max_trainable_params: int | None = Field(
        default=None, description="adapter parameters at most; the task head is counted apart"
    )
    max_flops: float | None = Field(default=None, description="FLOPs of one training step per token at most")
    max_vram_gb: float | None = Field(default=None, description="training memory at most, in GiB")
    latency_target_ms: float | None = Field(
        default=None, description="milliseconds added per token at inference, batch 1, unmerged"
    )
    max_time_ratio: float | None = Field(default=None, description="training time as a share of full fine-tuning at most")
    candidate_methods: Methods = Field(default=[Method.LORA, Method.NONE], description="methods a site may get")
    method_penalties: Penalties = Field(
        default={}, description="divides the value of a method's options: 1.0 is neutral, 0.8 favours it"
    )
    objective_weights: Weights = Field(
        default={"utility": 1.0}, description="utility, cost, flops, vram, latency: each cost as a share of its budget"
    )
    max_utilisation: float = Field(default=1.0, gt=0, le=1, description="share of each budget that may be spent")
    min_rank: int = Field(default=1, gt=0, description="smallest rank")
    max_rank: int | None = Field(default=None, gt=0, description="largest rank; hidden size / 10 if not given")
    alpha_over_rank: float = Field(default=2.0, gt=0, description="LoRA scaling alpha / r, the same for every layer")
    batch_size: int = Field(default=16, gt=0, description="training batch that memory is priced for")
    length: int | None = Field(
        default=None, gt=0, description="tokens per sample that memory is priced for; the profile's maximum"
    )
    optimizer_bytes: int = Field(default=8, ge=0, description="optimiser state per trainable parameter; 8 for AdamW in float32")
    max_candidates: int = Field(default=24, gt=0, description="candidates kept for the race")

    @field_validator("max_trainable_params", "max_flops", "max_vram_gb", "latency_target_ms", "max_time_ratio")
    @classmethod
    def _budget_is_positive(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError("a budget must be above zero")
        return value

    @field_validator("method_penalties")
    @classmethod
    def _penalty_is_positive(cls, value: dict[Method, float]) -> dict[Method, float]:
        if bad := [str(name) for name, penalty in value.items() if penalty <= 0]:
            raise ValueError(f"penalty of {', '.join(bad)} must be above zero")
        return value

    @field_validator("objective_weights")
    @classmethod
    def _weights_name_terms(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(value) - set(OBJECTIVE_TERMS)):
            raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(OBJECTIVE_TERMS)}")
        if any(weight < 0 for weight in value.values()):
            raise ValueError("a weight must not be negative")
        if value.get("utility", 0.0) <= 0:
            raise ValueError("utility must be above zero")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> OptimizationConfig:
        if not set(self.candidate_methods) - {Method.NONE}:
            raise ValueError("candidate_methods: at least one method besides none is needed")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise ValueError(f"max_rank {self.max_rank} is below min_rank {self.min_rank}")
        budgets = (self.max_trainable_params, self.max_flops, self.max_vram_gb, self.latency_target_ms, self.max_time_ratio)
        if all(budget is None for budget in budgets):
            raise ValueError(
                "no budget: give at least one of max_trainable_params, max_flops, max_vram_gb, latency_target_ms, max_time_ratio"
            )
        return self


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
    seeds: Annotated[list[int], BeforeValidator(_split_commas)] | None = Field(
        default=None, description="run every arm with each of these seeds; the one seed if not given"
    )
    keep_checkpoints: bool = Field(default=False, description="keep the training checkpoints after the run has ended")


def default_max_rank(hidden_size: int) -> int:
    """Ranks lie in 1 … hidden_size / 10 unless asked otherwise."""
    return max(1, hidden_size // 10)


def output_path(path: str | Path) -> Path:
    """Turn what a user typed into a path, with `~` expanded."""
    return Path(path).expanduser()
