"""What options and plans cost, in integers, so that sums are exact and a budget is never passed by a rounding error.

Per training step, P_l weights of layer l, width h, T tokens per sample, batch b, and cut c = the lowest adapted block:

    flops per token   Σ_l 2 P_l + Σ_blocks 4 T h                      forward (attention scores and their mix)
                    + Σ_{blocks >= c} (Σ_l 2 P_l + 8 T h)             gradients of activations; weights are frozen
                    + 6 · params of each option                       its forward, and both its gradients
    bytes             4 · parameters of the model                     weights, float32; planned layers in few bits, if asked
                    + head · (4 + optimizer_bytes)                    gradient and optimiser of the trained head
                    + Σ_{blocks >= c} b (saved T + pairs T²)          what autograd keeps (counted); pairs: attention weights
                    + max(b (fixed + outside T),                      head and loss, with the outputs' gradients (counted)
                          b (working T + working pairs T²) + decoded) what a block's passes take for a moment (counted)
                    + params · (8 + optimizer_bytes) + 4 b T r        of each option: itself, its inner activation
                    + 4 b T · in, once per shared input               the input that a weight gradient needs
    latency           Σ intercept_l + slope_l · r                     measured, one token, unmerged
    time ratio        measured seconds, over those of a step of full fine-tuning:
                      embeddings, head and loss
                    + Σ_{blocks >= c} forward and frozen backward
                    + Σ_{blocks < c} forward / epochs                 what they give is computed once and kept
                    + Σ options + parameters trained · update         clipping and optimiser

A prefix of r tokens keeps wider keys, values and attention weights in place of the last two (`_kept_by_prefix`).
Embeddings and the head's FLOPs are left out of the first: they are the same in every plan. It is a step of the first
epoch; later ones leave out the forward pass of the blocks below c. A layer outside the blocks counts as below all of
them. What is kept of the blocks below c takes memory or disk beside the bytes (`kept_bytes_per_sample`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerlens.artifacts.profile import BlockProfile, BlockTiming, LatencyModel, Profile, Timing
from layerlens.budget.held_base import FLOAT_BYTES, decoded_bytes, held_bytes
from layerlens.budget.knapsack import LARGEST_SUM
from layerlens.budget.sites import PlanSite
from layerlens.config import BaseFormat, OptimizationConfig
from layerlens.errors import ConfigError
from layerlens.words import BudgetName, Method, Role

#: Integer units per unit of `plan.json`: nanoseconds per millisecond, billionths of full fine-tuning's time.
PER_MS, PER_RATIO = 10**6, 10**9
UNITS = {BudgetName.LATENCY_MS: PER_MS, BudgetName.TIME_RATIO: PER_RATIO}
DEPTH_BUDGETS = frozenset({BudgetName.FLOPS, BudgetName.VRAM_BYTES, BudgetName.TIME_RATIO})
TIMED = frozenset({BudgetName.LATENCY_MS, BudgetName.TIME_RATIO})


@dataclass(frozen=True)
class CostModel:
    """Prices of one model at one batch, length and optimiser, over one form of its base. `names` are the budgets with prices."""

    profile: Profile
    timing: Timing | None
    batch_size: int
    length: int
    optimizer_bytes: int
    epochs: float
    base_format: BaseFormat = BaseFormat.AS_IS

    @property
    def kept_bytes_per_sample(self) -> int:
        """Bytes of a sample's hidden state above the frozen blocks: its real tokens, float32, whichever the cut."""
        return math.ceil(FLOAT_BYTES * self.profile.model.hidden_size * self.profile.mean_length)

    @property
    def names(self) -> tuple[BudgetName, ...]:
        timed = (BudgetName.LATENCY_MS, BudgetName.TIME_RATIO) if self.timing is not None else ()
        return (BudgetName.TRAINABLE_PARAMS, BudgetName.FLOPS, BudgetName.VRAM_BYTES, *timed)

    @property
    def num_blocks(self) -> int:
        return len(self.profile.blocks)

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights: float32, planned layers as the base's format holds them."""
        spared = sum(
            FLOAT_BYTES * layer.weight_params - held_bytes(self.base_format, layer.in_features, layer.out_features)
            for layer in self.profile.layers
        )
        return FLOAT_BYTES * self.profile.model.num_parameters - spared

    def option(self, site: PlanSite, size: int) -> dict[BudgetName, int]:
        """What one option adds, without the input it keeps (`kept_input`)."""
        return {name: int(cost[0]) for name, cost in self.options(site, (size,)).items()}

    def options(self, site: PlanSite, sizes: Sequence[int]) -> dict[BudgetName, Int[np.ndarray, " sizes"]]:
        """What a site's option adds at each of some sizes, without the input it keeps."""
        size, params = np.array(sizes, dtype=np.int64), np.array([site.params(size) for size in sizes], dtype=np.int64)
        is_prefix = site.method is Method.PREFIX
        if is_prefix:
            inner = self._kept_by_prefix(site, size)
        else:
            inner = FLOAT_BYTES * self.batch_size * self.length * (2 if site.method is Method.ADAPTER else 1) * size
        costs = {
            BudgetName.TRAINABLE_PARAMS: params,
            BudgetName.FLOPS: 12 * size * self.profile.model.hidden_size if is_prefix else 6 * params,
            BudgetName.VRAM_BYTES: params * (2 * FLOAT_BYTES + self.optimizer_bytes) + inner,
        }
        if self.timing is not None:
            added_ms = self._latency_ms(site, size, self.timing)
            seconds = self._seconds(site, params, added_ms)
            costs[BudgetName.LATENCY_MS] = np.ceil(added_ms * PER_MS).astype(np.int64)
            costs[BudgetName.TIME_RATIO] = np.ceil(seconds / self.full_seconds * PER_RATIO).astype(np.int64)
        return costs

    def kept_input(self, site: PlanSite) -> int:
        """Bytes of the input that the weight gradients of a shared-input group need, once per group."""
        if site.method is Method.PREFIX:
            return 0
        width = site.in_features if site.method is Method.LORA else site.out_features
        return FLOAT_BYTES * self.batch_size * self.length * width

    def base(self, cut: int) -> dict[BudgetName, int]:
        """What a step costs before any option, when the lowest adapted block is `cut` (all blocks: none is adapted)."""
        layers, blocks = self.profile.layers, self.profile.blocks
        width = self.profile.model.hidden_size
        forward = sum(2 * layer.weight_params for layer in layers) + len(blocks) * 4 * self.length * width
        above = sum(2 * layer.weight_params for layer in layers if (layer.block or 0) >= cut)
        above += max(0, len(blocks) - cut) * 8 * self.length * width
        saved = sum(self._saved(block) for block in blocks if block.block >= cut)
        model = self.profile.model
        costs = {
            BudgetName.TRAINABLE_PARAMS: 0,
            BudgetName.FLOPS: forward + above,
            BudgetName.VRAM_BYTES: self.base_bytes
            + model.head_parameters * (FLOAT_BYTES + self.optimizer_bytes)
            + math.ceil(self.batch_size * saved + self._beside_saved(self.base_format)),
        }
        if self.timing is not None:
            timing = self.timing
            frozen = timing.outside_backward_frozen_seconds
            seconds = timing.outside_forward_seconds + (timing.outside_backward_seconds if frozen is None else frozen)
            seconds += timing.update_seconds_per_parameter * model.head_parameters
            seconds += sum(block.forward_seconds / max(1.0, self.epochs) for block in timing.blocks if block.block < cut)
            seconds += sum(block.forward_seconds + block.backward_frozen_seconds for block in timing.blocks if block.block >= cut)
            costs[BudgetName.LATENCY_MS] = 0
            costs[BudgetName.TIME_RATIO] = math.ceil(seconds / self.full_seconds * PER_RATIO)
        return costs

    @property
    def full_seconds(self) -> float:
        """Seconds of one step of full fine-tuning at the profile's batch.

        Raises:
            ConfigError: the profile holds no times.
        """
        if self.timing is None:
            raise ConfigError("the profile has no timing.json, which a latency or time budget needs; profile again")
        timing = self.timing
        inside = sum(block.forward_seconds + block.backward_seconds for block in timing.blocks)
        update = timing.update_seconds_per_parameter * self.profile.model.num_parameters
        return max(inside + timing.outside_forward_seconds + timing.outside_backward_seconds + update, 1e-12)

    def full(self) -> dict[BudgetName, float]:
        """What full fine-tuning costs: the share that a weighted cost is taken of where no budget is set."""
        weights = sum(layer.weight_params for layer in self.profile.layers)
        model = self.profile.model
        attention = self.num_blocks * 12 * self.length * model.hidden_size
        saved = self.batch_size * sum(map(self._saved, self.profile.blocks)) + self._beside_saved(BaseFormat.AS_IS)
        costs = {
            BudgetName.TRAINABLE_PARAMS: float(model.num_parameters - model.head_parameters),
            BudgetName.FLOPS: float(6 * weights + attention),
            BudgetName.VRAM_BYTES: model.num_parameters * (2 * FLOAT_BYTES + self.optimizer_bytes) + saved,
        }
        if self.timing is not None:
            costs[BudgetName.TIME_RATIO] = float(PER_RATIO)
            costs[BudgetName.LATENCY_MS] = sum(block.forward_seconds for block in self.timing.blocks) * 1e3 * PER_MS
        return costs

    def _saved(self, block: BlockProfile) -> float:
        """Bytes of a sample that autograd keeps of a block."""
        return (block.activation_bytes_per_token + (block.attention_bytes_per_token_pair or 0.0) * self.length) * self.length

    def _beside_saved(self, base_format: BaseFormat) -> float:
        """Bytes that a step takes beside what the blocks keep: outside them, or for a moment in one of them."""
        decoded = max(
            (decoded_bytes(base_format, layer.in_features, layer.out_features) for layer in self.profile.layers), default=0
        )
        memory = self.profile.step_memory
        if memory is None:
            return decoded
        outside = memory.outside_bytes_per_sample + memory.outside_bytes_per_token * self.length
        working = (memory.working_bytes_per_token + memory.working_bytes_per_token_pair * self.length) * self.length
        return max(self.batch_size * outside, self.batch_size * working + decoded)

    def _kept_by_prefix(self, site: PlanSite, size: Int[np.ndarray, " sizes"]) -> Int[np.ndarray, " sizes"]:
        """Bytes of prefixes' keys and values for every sample, of the attention weights over them, and of the masks they need.

        A prefix needs a mask where its attention did without. Under a mask, heads that share keys and values get them
        copied: [b heads (T + r) head_size] each, in place of [b kv_heads T head_size].
        """
        block = next(block for block in self.profile.blocks if block.block == site.block)
        layers = [layer for layer in self.profile.layers if layer.block == site.block]
        queries = max((layer.out_features for layer in layers if layer.role is Role.ATTENTION_QUERY), default=block.hidden_size)
        width, memory = max(queries, block.kv_features), self.profile.step_memory
        kept = self.batch_size * size * (2 * FLOAT_BYTES * width + self.length * (block.attention_bytes_per_token_pair or 0.0))
        if memory is None or not memory.is_padded:
            kept = kept + 2 * FLOAT_BYTES * self.batch_size * self.length * (width - block.kv_features)
            kept = kept + FLOAT_BYTES * self.length * (self.length + size)
        return np.ceil(kept).astype(np.int64)

    def _latency_ms(self, site: PlanSite, size: Int[np.ndarray, " sizes"], timing: Timing) -> Float[np.ndarray, " sizes"]:
        measured = timing.latency.get(site.members[0]) if site.members else None
        if measured is None:
            known = list(timing.latency.values()) or [LatencyModel(intercept_ms=0, slope_ms=0)]
            measured = max(known, key=lambda entry: entry.intercept_ms)
        # An adapter is two products of its own widths; a prefix adds no launch, only keys to attend to.
        if site.method is Method.PREFIX:
            return measured.slope_ms * size
        return measured.intercept_ms + measured.slope_ms * size

    def _seconds(
        self, site: PlanSite, params: Int[np.ndarray, " sizes"], added_ms: Float[np.ndarray, " sizes"]
    ) -> Float[np.ndarray, " sizes"]:
        """Seconds an option adds to a step: its FLOPs at the measured rate of its block, three launches, its update."""
        timed = self._block_timing(site)
        weights = sum(layer.weight_params for layer in self.profile.layers if layer.block == site.block)
        rate = 0.0 if timed is None or not weights else 3 * timed.forward_seconds / weights
        update = 0.0 if self.timing is None else self.timing.update_seconds_per_parameter
        return (rate + update) * params + 3 * added_ms / 1e3

    def _block_timing(self, site: PlanSite) -> BlockTiming | None:
        blocks = {block.block: block for block in self.timing.blocks} if self.timing else {}
        return blocks.get(site.block) if site.block is not None else None


def cost_model(profile: Profile, timing: Timing | None, config: OptimizationConfig) -> CostModel:
    """The prices at the batch, length and optimiser of a config."""
    length = config.length or profile.task.max_length or math.ceil(profile.mean_length)
    return CostModel(profile, timing, config.batch_size, length, config.optimizer_bytes, config.epochs, config.base_format)


def limits_of(config: OptimizationConfig) -> dict[BudgetName, float]:
    """The budgets that were set, in the units of `plan.json`."""
    given = {
        BudgetName.TRAINABLE_PARAMS: config.max_trainable_params,
        BudgetName.FLOPS: config.max_flops,
        BudgetName.VRAM_BYTES: None if config.max_vram_gb is None else config.max_vram_gb * 2**30,
        BudgetName.LATENCY_MS: config.latency_target_ms,
        BudgetName.TIME_RATIO: config.max_time_ratio,
    }
    return {name: float(limit) for name, limit in given.items() if limit is not None}


def in_units(name: BudgetName, limit: float) -> int:
    """A limit in integer cost units: the largest cost that, written in `plan.json`'s unit, is not above it."""
    scale = UNITS.get(name, 1)
    if limit >= LARGEST_SUM / scale:
        return LARGEST_SUM
    cost = math.floor(limit * scale) + 1
    while from_units(name, cost) > limit:
        cost -= 1
    return cost


def from_units(name: BudgetName, cost: int) -> float:
    """An integer cost in the unit of `plan.json`."""
    return cost / UNITS[name] if name in UNITS else cost
