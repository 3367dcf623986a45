"""The options of `layerlens plan`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from layerlens.config.spellings import split_commas, split_pairs
from layerlens.config.training import BaseFormat
from layerlens.words import Frozen, Method

#: Objective weights of the predecessor: utility, and each cost as a share of its budget.
PREDECESSOR_WEIGHTS = {"utility": 0.5, "cost": 0.2, "flops": 0.1, "vram": 0.1, "latency": 0.1}
OBJECTIVE_TERMS = ("utility", "cost", "flops", "vram", "latency")
#: Preferences scale values, and a LoRA's update: beyond these nothing a person means is left, and sums overflow.
SMALLEST_PREFERENCE, LARGEST_PREFERENCE = 1e-6, 1e6
#: More than any machine has of anything; sums of costs stay exact to 9·10¹⁵ (`budget/knapsack.py`).
LARGEST_BUDGET = 1e18
#: Presets that a person may name instead of a mapping.
WEIGHT_PRESETS = {"default": {"utility": 1.0}, "predecessor": PREDECESSOR_WEIGHTS}


def _named_weights(value: Any) -> Any:
    return WEIGHT_PRESETS[value] if isinstance(value, str) and value in WEIGHT_PRESETS else split_pairs(value)


Methods = Annotated[list[Method], BeforeValidator(split_commas)]
Weights = Annotated[dict[str, float], BeforeValidator(_named_weights)]
Penalties = Annotated[dict[Method, float], BeforeValidator(split_pairs)]


class OptimizationConfig(Frozen):
    """Budgets, methods and preferences of a plan. At least one budget is needed."""

    max_trainable_params: int | None = Field(
        default=None, description="adapter parameters at most; the task head is counted apart"
    )
    max_flops: float | None = Field(
        default=None, description="FLOPs of one training step per token at most, embeddings and head left out"
    )
    max_vram_gb: float | None = Field(default=None, description="training memory at most, in GiB")
    latency_target_ms: float | None = Field(
        default=None, description="milliseconds added per token at inference, batch 1, unmerged"
    )
    max_time_ratio: float | None = Field(default=None, description="training time as a share of full fine-tuning at most")
    candidate_methods: Methods = Field(
        default=[Method.LORA, Method.NONE], description="methods a site may get; none is always one of them"
    )
    method_penalties: Penalties = Field(
        default={}, description="divides the value of a method's options: 1.0 is neutral, 0.8 favours it"
    )
    objective_weights: Weights = Field(
        default={"utility": 1.0},
        description="weights of utility, cost, flops, vram, latency, each cost as a share of its budget or of full fine-tuning; "
        "or predecessor for .5, .2, .1, .1, .1",
    )
    max_utilisation: float = Field(default=1.0, ge=0.001, le=1, description="share of each budget that may be spent")
    min_rank: int = Field(default=1, gt=0, description="smallest rank of a LoRA")
    max_rank: int | None = Field(default=None, gt=0, description="largest rank of a LoRA; hidden size / 10 if not given")
    alpha_over_rank: float = Field(
        default=2.0, gt=0, le=LARGEST_PREFERENCE, description="LoRA scaling alpha / r, the same for every layer"
    )
    batch_size: int = Field(default=16, gt=0, description="samples per training step that memory is priced for")
    length: int | None = Field(
        default=None,
        gt=0,
        description="tokens per sample that memory and FLOPs are priced for; the profile's maximum if not given",
    )
    epochs: float = Field(
        default=3.0, gt=0, description="passes over the data that time is priced for; frozen blocks run in the first alone"
    )
    optimizer_bytes: int = Field(
        default=8, ge=0, le=1024, description="bytes of optimiser state per trainable parameter; 8 for AdamW in float32"
    )
    base_format: BaseFormat = Field(
        default=BaseFormat.AS_IS,
        description="how the frozen base will be held, which memory is priced for: as-is, int8-torchao, int8-bnb or int4-bnb",
    )
    max_candidates: int = Field(default=24, ge=2, description="candidates kept for the race, uniform and optimum among them")

    @property
    def is_weighted(self) -> bool:
        """Whether some cost is subtracted from value."""
        return any(weight > 0 for term, weight in self.objective_weights.items() if term != "utility")

    @field_validator("max_trainable_params", "max_flops", "max_vram_gb", "latency_target_ms", "max_time_ratio")
    @classmethod
    def _budget_is_positive(cls, value: float | None) -> float | None:
        if value is not None and value <= 0:
            raise ValueError("a budget must be above zero")
        if value is not None and value > LARGEST_BUDGET:
            raise ValueError(f"a budget must not be above {LARGEST_BUDGET:g}; leave it out where there is no limit")
        return value

    @field_validator("method_penalties")
    @classmethod
    def _penalty_is_positive(cls, value: dict[Method, float]) -> dict[Method, float]:
        if bad := [str(name) for name, penalty in value.items() if penalty <= 0]:
            raise ValueError(f"penalty of {', '.join(bad)} must be above zero")
        if bad := [str(name) for name, penalty in value.items() if not SMALLEST_PREFERENCE <= penalty <= LARGEST_PREFERENCE]:
            raise ValueError(f"penalty of {', '.join(bad)} must lie in {SMALLEST_PREFERENCE:g} … {LARGEST_PREFERENCE:g}")
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
        meant = {term: weight for term, weight in value.items() if weight}
        if bad := [term for term, weight in meant.items() if not SMALLEST_PREFERENCE <= weight <= LARGEST_PREFERENCE]:
            raise ValueError(f"weight of {', '.join(bad)} must be 0 or lie in {SMALLEST_PREFERENCE:g} … {LARGEST_PREFERENCE:g}")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> OptimizationConfig:
        if not set(self.candidate_methods) - {Method.NONE}:
            raise ValueError("candidate_methods: at least one method besides none is needed")
        if self.method_penalties.get(Method.NONE, 1.0) != 1.0:
            raise ValueError("method_penalties: none has no value, so a penalty would do nothing; leave it out")
        if idle := [str(name) for name in self.method_penalties if name not in self.candidate_methods]:
            raise ValueError(f"method_penalties: {', '.join(idle)} is no candidate method, so its penalty would do nothing")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise ValueError(f"max_rank {self.max_rank} is below min_rank {self.min_rank}")
        budgets = (self.max_trainable_params, self.max_flops, self.max_vram_gb, self.latency_target_ms, self.max_time_ratio)
        if all(budget is None for budget in budgets):
            raise ValueError(
                "no budget: give at least one of max_trainable_params, max_flops, max_vram_gb, latency_target_ms, max_time_ratio"
            )
        return self


def default_max_rank(hidden_size: int) -> int:
    """Ranks lie in 1 … hidden_size / 10 unless asked otherwise."""
    return max(1, hidden_size // 10)
