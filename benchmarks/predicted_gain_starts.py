"""Gradients of every sample at the start of a LoRA, and what they foretell of layers and of whole plans.

At its start `up` is zero and `down` random, so only `up` has a gradient: D_i = Σ_t g_t (down x_t)ᵀ of sample i. A smaller rank's
start is the first rows of a larger one's (`adapting/attach.py`), so one pass at the largest rank serves every plan. Kept are the
mean gradients of two halves of the samples, and of each sample a sketch whose inner products are, in expectation, those of the
gradients (`linalg/kronecker_sketch.py`).

Joint gain of the layers of a plan, redundancy between them included (what two layers would both repair counts once):

    gain = ½ ḡ₂ᵀ (F₁ + λ)⁻¹ ḡ₁,    F₁ = mean of D_i D_iᵀ over one half and over all layers of the plan together,

in the space of the samples: with the kernel K = Σ_layers ⟨D_i, D_j⟩ and n samples a half, it is (½/n²) · 1ᵀ K₂₁ (K₁₁/n + λ)⁻¹ 1,
and λ is a share of the mean eigenvalue of K₁₁/n. Both swaps are averaged. This is `curves/cross_fitted_gain.py` without its
product structure and over layers jointly.

First step of Adam: Σ |η ḡ| where the halves agree in sign, η left out: ½ Σ sign(ḡ₁) ḡ₂ + ½ Σ sign(ḡ₂) ḡ₁.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from predicted_gain_runs import Trainer
from torch import Tensor, nn

from layerlens.adapting.arms.ranks import with_ranks
from layerlens.adapting.attach import attached
from layerlens.adapting.lora import ADAPTER
from layerlens.linalg.kronecker_sketch import SketchSide, sketches

NUM_SAMPLES = 256
BATCH_SIZE = 16
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Starts:
    """By layer: sketches `[samples, k, ranks]`, mean gradients of even and odd samples `[out_features, ranks]`, nats."""

    sketches: dict[str, np.ndarray]
    halves: dict[str, tuple[np.ndarray, np.ndarray]]

    def kernel(self, ranks: Mapping[str, int]) -> np.ndarray:
        """Inner products of the samples' gradients over the layers of a plan, `[samples, samples]`."""
        total: np.ndarray | None = None
        for layer, rank in ranks.items():
            rows = self.sketches[layer][:, :, :rank].reshape(len(self.sketches[layer]), -1)
            own = rows @ rows.T
            total = own if total is None else total + own
        if total is None:
            raise ValueError("a kernel needs at least one layer")
        return total

    def first_step(self, ranks: Mapping[str, int]) -> float:
        """Predicted drop of a first Adam step of size one, nats."""
        total = 0.0
        for layer, rank in ranks.items():
            one, other = (half[:, :rank] for half in self.halves[layer])
            total += 0.5 * float((np.sign(one) * other).sum() + (np.sign(other) * one).sum())
        return total

    def energy(self, ranks: Mapping[str, int]) -> float:
        """Inner product of the halves' gradients: debiased gradient energy at the start."""
        return float(
            sum((self.halves[layer][0][:, :rank] * self.halves[layer][1][:, :rank]).sum() for layer, rank in ranks.items())
        )

    def cosine(self, ranks: Mapping[str, int]) -> float:
        """Cosine between the halves' gradients: how far two halves of the samples agree on the direction."""
        norms = [sum(float((self.halves[layer][side][:, :rank] ** 2).sum()) for layer, rank in ranks.items()) for side in (0, 1)]
        return self.energy(ranks) / max(float(np.sqrt(norms[0] * norms[1])), 1e-30)


def kernel_gain(kernel: np.ndarray, *, damping: float) -> float:
    """Cross-fitted joint gain in nats from a kernel of all samples, even ones the first half, odd ones the second.

    Args:
        kernel: `[samples, samples]`, float.
        damping: λ as a share of the mean eigenvalue of K₁₁/n.
    """
    halves = (np.arange(0, len(kernel), 2), np.arange(1, len(kernel), 2))
    total = 0.0
    for one, other in (halves, halves[::-1]):
        own = kernel[np.ix_(one, one)].astype(np.float64) / len(one)
        ridge = damping * np.trace(own) / len(one)
        solved = np.linalg.solve(own + ridge * np.eye(len(one)), np.ones(len(one)) / len(one))
        total += 0.25 * float(kernel[np.ix_(other, one)].astype(np.float64).mean(axis=0) @ solved)
    return total


def measure_starts(trainer: Trainer, *, rank: int, seed: int = 0, num_samples: int = NUM_SAMPLES) -> Starts:
    """Run the samples that training starts with through a LoRA of `rank` in every layer, one backward pass."""
    layers = [entry.layer for entry in trainer.plan.layers]
    plan = with_ranks(trainer.plan, dict.fromkeys(layers, rank)).model_copy(update={"head": [], "head_params": 0})
    indices = trainer.training.indices[:num_samples]
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    sums: dict[str, list[Tensor]] = {}
    task = trainer.data.task

    def keep(layer: str, side: SketchSide, reduced: Tensor, first: int, gradient: Tensor) -> None:
        own, inputs = gradient.flatten(1, -2).float(), reduced.flatten(1, -2).float()
        found[layer].append(sketches(side(own), inputs).reshape(len(own), -1, inputs.shape[-1]))
        # Batches are of even size, so a sample's number in its batch has the parity of its number in the list.
        even, odd = (torch.einsum("bto,btr->or", own[start::2], inputs[start::2]) for start in (0, 1))
        sums[layer] = [even, odd] if first == 0 else [sums[layer][0] + even, sums[layer][1] + odd]

    def on_forward(layer: str, side: SketchSide, state: dict[str, int], _: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        out.register_hook(partial(keep, layer, side, args[0].detach(), state["first"]))

    state = {"first": 0}
    with attached(trainer.model, plan, seed=seed) as adapted, ExitStack() as stack:
        adapted.eval()
        for layer in layers:
            up = adapted.get_submodule(PREFIX + layer).lora_B[ADAPTER]
            side = SketchSide(up.weight.shape[0], 1)
            handle = up.register_forward_hook(partial(on_forward, layer, side, state))
            stack.callback(handle.remove)
        for first in range(0, len(indices), BATCH_SIZE):
            state["first"] = first
            batch = task.collate([trainer.data.examples[index] for index in indices[first : first + BATCH_SIZE]])
            task.per_sample_loss(adapted(**task.model_inputs(batch)), batch).sum().backward()
            adapted.zero_grad(set_to_none=True)
    half = len(indices) / 2
    return Starts(
        sketches={layer: torch.cat(parts).numpy() for layer, parts in found.items()},
        halves={layer: (one.numpy() / half, other.numpy() / half) for layer, (one, other) in sums.items()},
    )
