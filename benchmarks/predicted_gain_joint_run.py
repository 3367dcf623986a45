"""One short run with a small adapter on every layer at once, its held-out gain shared out to the layers.

At step t the parameters go from θ_t to θ_t + Δ_t by Adam on batch t; batch t + 1, which no step has seen yet, is run before and
after. The drop of its loss is measured held-out gain, and is shared out to the layers by the trapezoidal rule along the step,

    share of layer l = −½ ⟨∇_l L(θ_t; batch t + 1) + ∇_l L(θ_t + Δ_t; batch t + 1), Δ_t,l⟩,

whose sum over layers is that drop up to the third order in Δ_t (integrated gradients over the parameters, along the path of
training: Sundararajan et al. 2017, arXiv 1703.01365; Lan et al. 2019, arXiv 1909.01440). The gradient after a step is the one
that the next step is made of, so a step costs two passes.

Where no learning rate is known it rises from step to step by a constant factor. What counts are the steps up to the one after
which held-out loss was lowest; the run ends early once the loss has risen again. A layer's share is what it does beside the
others: layers that can repair the same error share the gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from predicted_gain_runs import Trainer
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.models.frozen import frozen
from layerlens.nn.low_rank_probe import LowRankProbe

BATCH_SIZE = 8
#: Steps at a rate that is known, and the rates of a run where none is.
STEPS = 20
RISING = tuple(np.geomspace(1e-4, 5e-2, 24).tolist())
#: Alpha / rank of the adapters.
SCALING = 2.0
#: Standard errors that the loss must have risen again by, and the share of the drop that must be lost, for the run to end early.
RISEN, LOST = 2.0, 0.5


@dataclass(frozen=True)
class Step:
    """What one step was worth on samples that it has not seen: each one's drop of loss, nats, and every layer's share."""

    drops: np.ndarray
    shares: Mapping[str, float]

    @property
    def drop(self) -> float:
        """Mean over the samples."""
        return float(self.drops.mean())

    @property
    def variance(self) -> float:
        """Of the mean drop, over the samples."""
        return float(self.drops.var(ddof=1)) / len(self.drops)


@dataclass(frozen=True)
class JointRun:
    """Shares of the layers in the first `steps` steps, nats; they sum to nearly the drop, whose error is over samples."""

    shares: dict[str, float]
    steps: int
    drop: float
    error: float


def joint_run(trainer: Trainer, layers: Sequence[LayerSpec], rates: Sequence[float], *, rank: int) -> JointRun:
    """Train adapters on all layers at once, one step for each of the rates, each on samples that no step has seen."""
    indices = trainer.training.indices[: BATCH_SIZE * (len(rates) + 1)]
    batches = [
        [trainer.data.examples[index] for index in indices[first : first + BATCH_SIZE]]
        for first in range(0, len(indices) - BATCH_SIZE + 1, BATCH_SIZE)
    ]
    return measured(trainer.model, layers, trainer.data.task, batches, rates, rank=rank)


def measured(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    task: Task,
    batches: Sequence[Sequence[Example]],
    rates: Iterable[float],
    *,
    rank: int,
    seed: int = 0,
) -> JointRun:
    """The same on given batches: one to begin with, and one more for each step; the model is left as it was."""
    steps: list[Step] = []
    with frozen(model), ExitStack() as placed:
        run = Adapters(model, layers, task, rank=rank, seed=seed)
        for layer, probe in run.probes.items():
            placed.enter_context(probe.beside(model.get_submodule(layer)))
        run.look_at(batches[0])
        for rate, batch in zip(rates, batches[1:], strict=False):
            step = run.step(rate, batch)
            if not np.isfinite(step.drops).all():
                break
            steps.append(step)
            if has_risen(steps):
                break
    counted = steps[: best(steps)] if steps else []
    return JointRun(
        shares={spec.layer: float(sum(step.shares[spec.layer] for step in counted)) for spec in layers},
        steps=len(counted),
        drop=float(sum(step.drop for step in counted)),
        error=sum(step.variance for step in counted) ** 0.5,
    )


class Adapters:
    """Adapters on all layers, their optimiser, and the gradient of the batch that the next step is made of."""

    def __init__(self, model: nn.Module, layers: Sequence[LayerSpec], task: Task, *, rank: int, seed: int) -> None:
        self.model, self.task = model, task
        generator = torch.Generator().manual_seed(seed)
        self.probes = {
            spec.layer: LowRankProbe(spec.in_features, spec.out_features, rank, scaling=SCALING, generator=generator)
            for spec in layers
        }
        self._parameters = {layer: list(probe.parameters()) for layer, probe in self.probes.items()}
        self._optimizer = torch.optim.Adam([one for own in self._parameters.values() for one in own])

    def look_at(self, samples: Sequence[Example]) -> Tensor:
        """Loss of each sample, `[samples]`, nats; the parameters then hold the gradient of its mean."""
        batch = self.task.collate(samples)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self.task.per_sample_loss(self.model(**self.task.model_inputs(batch)), batch)
        losses.mean().backward()
        return losses.detach().double()

    def step(self, rate: float, unseen: Sequence[Example]) -> Step:
        """Step along the gradient that the parameters hold; what that is worth on samples that were not seen."""
        held = {layer: [one.grad for one in own] for layer, own in self._parameters.items()}
        before = self.look_at(unseen)
        left = self._gradients()
        start = {layer: [one.detach().clone() for one in own] for layer, own in self._parameters.items()}
        for layer, own in self._parameters.items():
            for one, gradient in zip(own, held[layer], strict=True):
                one.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        after = self.look_at(unseen)
        right = self._gradients()
        shares = {
            layer: -0.5
            * sum(
                float(((one_left + one_right) * (one.detach() - from_)).sum())
                for one, from_, one_left, one_right in zip(own, start[layer], left[layer], right[layer], strict=True)
            )
            for layer, own in self._parameters.items()
        }
        return Step((before - after).numpy(), shares)

    def _gradients(self) -> dict[str, list[Tensor]]:
        """Zeros for what no sample ran through, as experts that were not chosen."""
        return {
            layer: [torch.zeros_like(one) if one.grad is None else one.grad for one in own]
            for layer, own in self._parameters.items()
        }


def best(steps: Sequence[Step]) -> int:
    """How many steps lead to the lowest held-out loss."""
    return int(np.argmax(np.cumsum([step.drop for step in steps]))) + 1


def has_risen(steps: Sequence[Step]) -> bool:
    """Whether the loss is clearly above its lowest again, by more than half of what had been gained."""
    lowest = best(steps)
    risen = -sum(step.drop for step in steps[lowest:])
    error = sum(step.variance for step in steps[lowest:]) ** 0.5
    return risen > RISEN * error and risen > LOST * sum(step.drop for step in steps[:lowest])
