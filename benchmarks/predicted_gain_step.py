"""What one step of each layer alone is worth, measured: the best low-rank update to second order, at the best length for it.

One pass over training samples gives every layer's mean gradient G, the mean A of x xᵀ over tokens and the mean B over samples of
g gᵀ summed over tokens. With A = L_A L_Aᵀ and B = L_B L_Bᵀ (damped) and G whitened to U Σ Vᵀ = L_B⁻¹ G L_A⁻ᵀ, the update that the
gain curve of a profile promises is

    ΔW = −L_B⁻ᵀ U_r Σ_r V_rᵀ L_A⁻¹

up to its length, which K-FAC knows poorly. So a layer is given W + s ΔW at a few s, powers of two, until the loss of validation
samples rises on either side of the lowest; the score is the drop there. No optimiser, no rate, no training: four or five passes
forward over a few samples for a layer. The lowest of a few losses flatters itself a little, every layer alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from predicted_gain_joint import Part, additive, grouped, shared
from predicted_gain_predictors import Predictor
from predicted_gain_runs import Trainer
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.budget.values import ATTENTION_INPUT_SHARE
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.linalg.cholesky_whitening import damped_whitener
from layerlens.linalg.gram import GramSum
from layerlens.models.forward_hooks import on_backward, taken_off
from layerlens.models.frozen import frozen

NUM_SAMPLES = 128
NUM_SCORED = 64
BATCH_SIZE = 32
DAMPING = 0.1
#: More rows than features: the Grams are kept, not their rows.
MANY_ROWS = 1 << 30
#: The first length that is tried, as a power of two, and the shortest and longest ones.
FIRST, SHORTEST, LONGEST = -3, -12, 4


def measured_steps(trainer: Trainer, layers: Sequence[str], *, rank: int, num_scored: int = NUM_SCORED) -> dict[str, float]:
    """Drop of validation loss by one step of each layer alone, nats; 0 where no length lowers it."""
    samples = [trainer.data.examples[index] for index in trainer.training.indices[:NUM_SAMPLES]]
    return step_drops(trainer.model, layers, trainer.data.task, samples, trainer.held_out("race")[:num_scored], rank=rank)


def step_predictors(
    layers: Sequence[LayerSpec], plans: Mapping[str, Mapping[str, int]], steps: Mapping[str, float]
) -> list[Predictor]:
    """Whole plans by the steps of the layers that they adapt, whatever their ranks."""
    spec = {layer.layer: layer for layer in layers}
    parts = [
        [Part(name, spec[name].role.value, spec[name].block or 0, steps[name]) for name in ranks] for ranks in plans.values()
    ]
    models: dict[str, Callable[[Sequence[Part]], float]] = {
        "additive": additive,
        f"additive, attention's inputs × {ATTENTION_INPUT_SHARE:g}": partial(shared, share=ATTENTION_INPUT_SHARE),
        "√ by block": partial(grouped, group_of=lambda part: part.block, power=0.5),
    }
    return [
        Predictor(
            "joint, from one measured step of each layer", f"{name}, one measured step", np.array([model(own) for own in parts])
        )
        for name, model in models.items()
    ]


def step_drops(
    model: nn.Module, layers: Sequence[str], task: Task, samples: Sequence[Example], scored: Sequence[Example], *, rank: int
) -> dict[str, float]:
    """The same on given samples; the model is left as it was."""

    @torch.no_grad()
    def loss() -> float:
        return sum(float(_losses(model, task, batch).double().sum()) for batch in _batches(scored)) / len(scored)

    found, power = {}, FIRST
    with frozen(model):
        updates = best_updates(model, layers, task, samples, rank=rank)
        start = loss()
        for layer in layers:
            if not updates[layer].any():
                found[layer] = 0.0
                continue
            weight: Any = model.get_submodule(layer).weight
            with _moved(weight) as move_by:

                def drop(own: int, step: Tensor = updates[layer], move_by: Callable[[Tensor], None] = move_by) -> float:
                    move_by(2.0**own * step)
                    after = loss()
                    return start - after if math.isfinite(after) else -math.inf

                # The layers' best lengths are much alike: the search begins at the last one's.
                best, power = highest(drop, power)
            found[layer] = max(0.0, best)
    return found


def best_updates(
    model: nn.Module, layers: Sequence[str], task: Task, samples: Sequence[Example], *, rank: int
) -> dict[str, Tensor]:
    """ΔW of every layer in the shape of its weight, from one pass over the samples; zero without a gradient."""
    sums = {layer: _Sums(model.get_submodule(layer)) for layer in layers}
    with taken_off([on_backward(one.module, one.add) for one in sums.values()]):
        for batch in _batches(samples):
            _losses(model, task, batch).sum().backward()
    return {layer: one.update(rank, len(samples)) for layer, one in sums.items()}


def update(
    gradient: Float[Tensor, "out in"], inputs: GramSum, outputs: GramSum, rank: int, *, num_samples: int, damping: float
) -> Tensor:
    """ΔW from the mean gradient and the sums of outer products over tokens, `[out, in]`; zero where one of these is zero."""
    roots = []
    for gram, count in ((inputs, inputs.num_rows), (outputs, num_samples)):
        whitener = damped_whitener(gram, count, damping)
        if whitener is None:
            return torch.zeros_like(gradient)
        # The rows of the identity, whitened: L⁻ᵀ.
        roots.append(torch.eye(gram.features))
        whitener.apply_(roots[-1])
    left, values, right = torch.linalg.svd(roots[1].t() @ gradient @ roots[0], full_matrices=False)
    return -(roots[1] @ left[:, :rank] * values[:rank]) @ (right[:rank] @ roots[0].t())


def highest(drop: Callable[[int], float], start: int) -> tuple[float, int]:
    """The largest drop and its power of two: from `start` to either side for as long as it grows, or is none at all."""
    power, best = start, drop(start)
    for way, end in ((-1, SHORTEST), (1, LONGEST)):
        while power != end and ((found := drop(power + way)) > best or best == -math.inf):
            power, best = power + way, found
        if power != start:
            break
    return best, power


class _Sums:
    """G and the Grams of one layer."""

    def __init__(self, module: Any) -> None:
        self.module = module
        out_features, in_features = module.weight.shape
        self._gradient = torch.zeros(out_features, in_features)
        self._read, self._sent_back = GramSum(in_features, MANY_ROWS), GramSum(out_features, MANY_ROWS)

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add what the layer read and the gradient of what it gave."""
        rows, changes = inputs.flatten(0, -2).float(), gradient.flatten(0, -2).float()
        self._gradient.addmm_(changes.t(), rows)
        self._read.add(rows)
        self._sent_back.add(changes)

    def update(self, rank: int, num_samples: int) -> Tensor:
        """ΔW from what has been summed up."""
        gradient = self._gradient / num_samples
        return update(gradient, self._read, self._sent_back, rank, num_samples=num_samples, damping=DAMPING)


@contextmanager
def _moved(weight: Tensor) -> Iterator[Callable[[Tensor], None]]:
    """A function that sets a weight to its own value plus a step, and the value itself afterwards."""
    kept = weight.detach().clone()

    @torch.no_grad()
    def move_by(step: Tensor) -> None:
        weight.copy_(kept + step)

    try:
        yield move_by
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def _batches(samples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for first in range(0, len(samples), BATCH_SIZE):
        yield samples[first : first + BATCH_SIZE]


def _losses(model: nn.Module, task: Task, samples: Sequence[Example]) -> Tensor:
    batch = task.collate(samples)
    return task.per_sample_loss(model(**task.model_inputs(batch)), batch)
