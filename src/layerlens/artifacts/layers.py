"""A model as the planner sees it: its planned layers and its blocks, without a single tensor."""

from __future__ import annotations

from pydantic import Field

from layerlens.words import Frozen, Role


class LayerSpec(Frozen):
    """One planned weight matrix. The full module path is its only key."""

    layer: str = Field(description="full module path in the task model")
    block: int | None = Field(description="index of its transformer block; none outside the blocks")
    role: Role
    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    has_bias: bool = False
    is_transposed: bool = Field(default=False, description="weight is stored [in, out] (GPT-2's Conv1D)")
    input_group: str = Field(description="first layer that reads the same input; layers of one group share a Gram")

    @property
    def weight_params(self) -> int:
        return self.in_features * self.out_features


class BlockSpec(Frozen):
    """One transformer block and its sites for prefixes."""

    block: int
    path: str = Field(description="full module path of the block")
    attention: str | None = Field(default=None, description="full module path of its attention; none if unknown")
    takes_prefix: bool = Field(default=True, description="its attention uses transformers' interface, as a prefix needs")
    hidden_size: int = Field(gt=0)
    kv_features: int = Field(gt=0, description="key/value heads × head size")
    num_params: int = Field(gt=0, description="all parameters of the block")


class ModelLayout(Frozen):
    """Every planned layer and every block of a model, in forward order."""

    layers: list[LayerSpec]
    blocks: list[BlockSpec]
    head: list[str] = Field(description="modules trained beside any plan: task head and pooler")
    is_guessed: bool = Field(default=False, description="the architecture is unknown: roles are guessed from the tree")


class ModelInfo(Frozen):
    """Which model was looked at."""

    id: str
    hash: str = Field(description="sha256 over the config and every safetensors file")
    architecture: str = Field(description="class of the task model")
    family: str = Field(description="model_type of its config")
    hidden_size: int = Field(gt=0)
    num_parameters: int = Field(gt=0, description="all parameters of the task model, head included")
    head_parameters: int = Field(ge=0, description="parameters of the modules trained beside any plan")
    weight_dtype: str = "float32"
