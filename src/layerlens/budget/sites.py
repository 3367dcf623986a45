"""Every place that an option can sit, with the options it may get: the groups of the knapsack.

A linear layer may get a LoRA, the output of a sublayer a bottleneck adapter, the attention of a block a prefix.
A site's options are in the order of their cost; none is always there and is not listed.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerlens.artifacts.layers import BlockSpec
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.profile import LayerProfile, Profile
from layerlens.config import OptimizationConfig, default_max_rank
from layerlens.errors import ConfigError
from layerlens.words import SITE_OF_METHOD, Method, Site

ADAPTER_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
PREFIX_SIZES = (1, 2, 4, 8, 16, 32)
#: The role that an attention site bears in a plan; no projection has it.
ATTENTION_ROLE = "attention"


@dataclass(frozen=True)
class PlanSite:
    """One site.

    Args:
        layer: Full module path: of the layer, or of the attention for a prefix.
        site: Kind of place.
        block: Its block; none outside the blocks.
        role: Role of the layer, or "attention".
        utility: Of the layer; the mean over the attention's layers for a prefix.
        method: What it may get besides none.
        sizes: Sizes on offer, rising; empty where the method is not a candidate.
        input_group: Sites with one input keep it once for the backward pass.
        members: Layers whose gain stands for this site's.
    """

    layer: str
    site: Site
    block: int | None
    role: str
    utility: float
    method: Method
    sizes: tuple[int, ...]
    in_features: int
    out_features: int
    kv_features: int
    input_group: str
    members: tuple[str, ...]

    def params(self, size: int) -> int:
        """Parameters that this site trains at a size; 0 is none."""
        method = self.method if size else Method.NONE
        return trainable_params(
            method, size, in_features=self.in_features, out_features=self.out_features, kv_features=self.kv_features
        )


def rank_range(profile: Profile, config: OptimizationConfig) -> tuple[int, ...]:
    """Ranks on offer, none above what the widest layer can have.

    Raises:
        ConfigError: the smallest rank is above the largest.
    """
    largest = config.max_rank or default_max_rank(profile.model.hidden_size)
    if config.min_rank > largest:
        raise ConfigError(f"--min-rank {config.min_rank} is above the largest rank {largest}; give a larger --max-rank")
    widest = max((min(layer.in_features, layer.out_features) for layer in profile.layers), default=0)
    return tuple(range(config.min_rank, min(largest, widest) + 1))


def plan_sites(profile: Profile, config: OptimizationConfig) -> list[PlanSite]:
    """List the sites of a model: every linear layer, then those of the other methods that are candidates.

    Idle layers have none: a rank there would train nothing. Where every layer is idle, all stay.

    Raises:
        ConfigError: prefixes are a candidate, and no attention of the model can have one.
    """
    methods = set(config.candidate_methods)
    ranks = rank_range(profile, config) if Method.LORA in methods else ()
    layers = [layer for layer in profile.layers if not layer.is_idle] or profile.layers
    # Blocks of whose attention nothing runs.
    idle = {layer.block for layer in profile.layers if layer.role.is_attention}
    idle -= {layer.block for layer in layers if layer.role.is_attention}
    sites = [_linear(layer, ranks) for layer in layers]
    if Method.ADAPTER in methods:
        sites += [_sublayer(layer) for layer in layers if layer.role.is_sublayer_output]
    if Method.PREFIX in methods:
        attentions = [
            _attention(block, block.attention, [layer for layer in layers if layer.block == block.block])
            for block in profile.blocks
            if block.attention is not None and block.takes_prefix and block.block not in idle
        ]
        if not attentions:
            raise ConfigError(
                f"prefix: no attention of {profile.model.id} ({profile.model.architecture}) goes through transformers' attention "
                "interface, which a prefix needs; leave prefix out of --methods"
            )
        sites += attentions
    return sites


def _linear(layer: LayerProfile, ranks: tuple[int, ...]) -> PlanSite:
    return PlanSite(
        layer=layer.layer,
        site=SITE_OF_METHOD[Method.LORA],
        block=layer.block,
        role=layer.role.value,
        utility=layer.utility,
        method=Method.LORA,
        sizes=tuple(rank for rank in ranks if rank <= min(layer.in_features, layer.out_features)),
        in_features=layer.in_features,
        out_features=layer.out_features,
        kv_features=0,
        input_group=layer.input_group,
        members=(layer.layer,),
    )


def _sublayer(layer: LayerProfile) -> PlanSite:
    return PlanSite(
        layer=layer.layer,
        site=Site.SUBLAYER,
        block=layer.block,
        role=layer.role.value,
        utility=layer.utility,
        method=Method.ADAPTER,
        sizes=tuple(size for size in ADAPTER_SIZES if 2 * size <= layer.out_features),
        in_features=layer.in_features,
        out_features=layer.out_features,
        kv_features=0,
        input_group=f"{layer.layer}:output",
        members=(layer.layer,),
    )


def _attention(block: BlockSpec, path: str, layers: list[LayerProfile]) -> PlanSite:
    inside = [layer for layer in layers if layer.role.is_attention]
    utility = sum(layer.utility for layer in inside) / len(inside) if inside else 0.0
    return PlanSite(
        layer=path,
        site=Site.ATTENTION,
        block=block.block,
        role=ATTENTION_ROLE,
        utility=utility,
        method=Method.PREFIX,
        sizes=PREFIX_SIZES,
        in_features=block.hidden_size,
        out_features=block.hidden_size,
        kv_features=block.kv_features,
        input_group=f"{path}:prefix",
        members=tuple(layer.layer for layer in inside),
    )
