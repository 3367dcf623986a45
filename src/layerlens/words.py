"""The words that every artifact shares: roles, methods, sites, tasks, and the frozen base model.

Nothing here needs torch.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Frozen(BaseModel):
    """Base of all artifacts and configs: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Role(StrEnum):
    """What a layer does in its block; decided in one file (`models/roles.py`)."""

    ATTENTION_QUERY = "attention.query"
    ATTENTION_KEY = "attention.key"
    ATTENTION_VALUE = "attention.value"
    ATTENTION_QKV = "attention.qkv"
    ATTENTION_OUTPUT = "attention.output"
    MLP_UP = "mlp.up"
    MLP_GATE = "mlp.gate"
    MLP_GATE_UP = "mlp.gate_up"
    MLP_DOWN = "mlp.down"
    EMBEDDING = "embedding"
    POOLER = "pooler"
    HEAD = "head"
    OTHER = "other"

    @property
    def is_attention(self) -> bool:
        return self.value.startswith("attention.")

    @property
    def is_mlp(self) -> bool:
        return self.value.startswith("mlp.")

    @property
    def is_sublayer_output(self) -> bool:
        """Whether a bottleneck adapter can sit after this layer (the output of a sublayer)."""
        return self in (Role.ATTENTION_OUTPUT, Role.MLP_DOWN)


#: Roles whose matrices one kernel multiplies at once, where they read the same input.
FUSED_ROLES = (
    frozenset({Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE}),
    frozenset({Role.MLP_GATE, Role.MLP_UP}),
)
_QUERY_VALUE = frozenset({Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.ATTENTION_QKV})
_MLP = frozenset(role for role in Role if role.is_mlp)
#: Sets of roles that a person would adapt, broadest first; an empty set means every role.
ROLE_SETS: dict[str, frozenset[Role]] = {
    "all": frozenset(),
    "mlp": _MLP,
    "mlp+attention.output": _MLP | {Role.ATTENTION_OUTPUT},
    "mlp+attention.value": _MLP | {Role.ATTENTION_VALUE, Role.ATTENTION_QKV},
    "attention": frozenset(role for role in Role if role.is_attention),
    "query+value": _QUERY_VALUE,
    "mlp.down+attention.output": frozenset({Role.MLP_DOWN, Role.ATTENTION_OUTPUT}),
}
#: Cuts, as shares of the depth, that each set of roles is crossed with.
_CUTS = (1 / 6, 1 / 3, 1 / 2, 2 / 3)


def fused_set(role: Role) -> int | None:
    """Which of `FUSED_ROLES` a role is in; none for most."""
    return next((number for number, roles in enumerate(FUSED_ROLES) if role in roles), None)


def depth_cuts(num_blocks: int) -> list[int]:
    """Lowest blocks that a structured plan may adapt, the whole depth first."""
    return sorted({0, *(max(1, round(share * num_blocks)) for share in _CUTS if num_blocks > 1)})


class Method(StrEnum):
    """A fine-tuning method. `none` is a choice like any other."""

    LORA = "lora"
    ADAPTER = "adapter"
    PREFIX = "prefix"
    NONE = "none"


class Site(StrEnum):
    """Where an option sits: LoRA on a linear layer, a bottleneck after a sublayer, a prefix on a block's attention."""

    LINEAR = "linear"
    SUBLAYER = "sublayer"
    ATTENTION = "attention"


SITE_OF_METHOD = {Method.LORA: Site.LINEAR, Method.ADAPTER: Site.SUBLAYER, Method.PREFIX: Site.ATTENTION}


class TaskKind(StrEnum):
    """The tasks LayerLens knows how to load data for, to train and to score."""

    CLASSIFICATION = "classification"
    PAIR_CLASSIFICATION = "pair-classification"
    REGRESSION = "regression"
    CAUSAL_LM = "causal-lm"
    IMAGE_CLASSIFICATION = "image-classification"
    QUESTION_ANSWERING = "question-answering"
    EMBEDDING = "embedding"


class BudgetName(StrEnum):
    """The keys of `plan.json`'s budgets."""

    TRAINABLE_PARAMS = "trainable_params"
    FLOPS = "flops"
    VRAM_BYTES = "vram_bytes"
    LATENCY_MS = "latency_ms"
    TIME_RATIO = "time_ratio"
    SIZE_BYTES = "size_bytes"
