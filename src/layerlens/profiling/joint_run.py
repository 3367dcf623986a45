"""`joint_gain`: what every layer does in one short run with a small adapter on all of them at once.

One run in place of one for each layer. At step t the parameters go from θ_t to θ_t + Δ_t by Adam on batch t; batch t + 1, which
no step has seen yet, is run before and after. The drop of its loss is measured held-out gain, and is shared out to the layers by
the trapezoidal rule along the step,

    share of layer l = −½ ⟨∇_l L(θ_t; batch t + 1) + ∇_l L(θ_t + Δ_t; batch t + 1), Δ_t,l⟩,

whose sum over layers is that drop up to the third order in Δ_t (integrated gradients of the loss over the parameters, along the
path of training: Sundararajan et al. 2017, arXiv 1703.01365; Lan et al. 2019, arXiv 1909.01440). The gradient after a step is the
one that the next step is made of, so a step costs two passes.

No learning rate has to be known: it rises from step to step by a constant factor over the range that adapters want, and what
counts are the steps up to the one after which held-out loss was lowest. The run ends early once the loss has risen again.

A layer's share is what it does beside the others. Alone it could do more: layers that can repair the same error share the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.artifacts.profile import JointRun
from layerlens.config import ProfilingConfig
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.models.frozen import frozen
from layerlens.nn.low_rank_probe import CUSTOMARY_SCALING, LowRankProbe
from layerlens.profiling.batch_device import to_device_of
from layerlens.progress import SILENT, Progress

#: Learning rates of the first and the last step.
_RATES = (1e-4, 5e-2)
#: With fewer steps the rates in between are too far apart.
LEAST_STEPS = 8
#: Standard errors that the drop must lie above zero. The best of several steps is chosen, so it is more than two.
_LEAST_SIGNIFICANCE = 3.0
#: Standard errors that the loss must have risen again by, and the share of the drop that must be lost, for the run to end early.
_RISEN, _LOST = 2.0, 0.5


@dataclass(frozen=True)
class Joint:
    """`gains` of every layer, nats, and how they were measured."""

    gains: dict[str, float]
    settings: JointRun


@dataclass(frozen=True)
class _Step:
    """What one step was worth on samples that it has not seen."""

    rate: float
    drops: Float[np.ndarray, " samples"]
    shares: dict[str, float]

    @property
    def variance(self) -> float:
        """Of the mean drop, over the samples."""
        return float(self.drops.var(ddof=1)) / len(self.drops)


def measure_joint_run(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    task: Task,
    examples: Sequence[Example],
    config: ProfilingConfig,
    progress: Progress = SILENT,
) -> Joint | None:
    """Train adapters on all layers at once for `joint_steps`, and share out what that gained.

    Args:
        model: Task model; its weights are left as they were.
        layers: Planned layers.
        task: Loss and labels.
        examples: Samples to draw from; every batch is of other ones.
        config: Steps, samples per step and rank (those of the proxies), seed.

    Returns:
        None where the joint run is off or the samples are too few for `LEAST_STEPS`.
    """
    batches = _batches(len(examples), config)
    if len(batches) - 1 < LEAST_STEPS:
        return None
    with frozen(model), ExitStack() as placed:
        run = _Run(model, layers, task, config)
        for layer, probe in run.probes.items():
            placed.enter_context(probe.beside(model.get_submodule(layer)))
        steps: list[_Step] = []
        run.look_at([examples[sample] for sample in batches[0]])
        rates = np.geomspace(*_RATES, len(batches) - 1).tolist()
        pairs = list(zip(rates, batches[1:], strict=True))
        for rate, batch in progress.track(pairs, "joint run", total=len(pairs)):
            step = run.step(rate, [examples[sample] for sample in batch])
            if not np.isfinite(step.drops).all():
                break
            steps.append(step)
            if _has_risen(steps):
                break
    return _shared_out(steps, layers, config, samples=sum(map(len, batches[: len(steps) + 1])))


class _Run:
    """Adapters on all layers, the optimiser, and the gradient of the batch that the next step is made of."""

    def __init__(self, model: nn.Module, layers: Sequence[LayerSpec], task: Task, config: ProfilingConfig) -> None:
        self.model, self.task = model, task
        generator = torch.Generator().manual_seed(config.seed)
        self.probes: dict[str, LowRankProbe] = {}
        for spec in layers:
            shape = (spec.in_features, spec.out_features, config.proxy_rank)
            probe = LowRankProbe(*shape, scaling=CUSTOMARY_SCALING, generator=generator)
            self.probes[spec.layer] = probe.to(next(model.get_submodule(spec.layer).parameters()).device)
        self._parameters = {layer: list(probe.parameters()) for layer, probe in self.probes.items()}
        self._optimizer = torch.optim.Adam([one for own in self._parameters.values() for one in own])

    def look_at(self, samples: Sequence[Example]) -> Float[Tensor, " samples"]:
        """Loss of each sample; the parameters then hold the gradient of its mean."""
        batch = to_device_of(self.model, self.task.collate(samples))
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            losses = self.task.per_sample_loss(self.model(**self.task.model_inputs(batch)), batch)
            losses.mean().backward()
        return losses.detach().double().cpu()

    def step(self, rate: float, unseen: Sequence[Example]) -> _Step:
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
        return _Step(rate, (before - after).numpy(), shares)

    def _gradients(self) -> dict[str, list[Tensor]]:
        """Zeros for what no sample ran through, as experts that were not chosen."""
        return {
            layer: [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in own]
            for layer, own in self._parameters.items()
        }


def _batches(num_samples: int, config: ProfilingConfig) -> list[list[int]]:
    """One batch to begin with and one for each step, no sample twice; fewer where the samples do not last."""
    order = np.random.default_rng([config.seed, 3]).permutation(num_samples).tolist()
    size = config.proxy_batch_size
    count = min(config.joint_steps + 1, num_samples // size) if size > 1 else 0
    return [order[place * size : (place + 1) * size] for place in range(count)]


def _best(steps: Sequence[_Step]) -> int:
    """How many steps lead to the lowest held-out loss."""
    return int(np.argmax(np.cumsum([step.drops.mean() for step in steps]))) + 1


def _has_risen(steps: Sequence[_Step]) -> bool:
    """Whether the loss is clearly above its lowest again, by more than half of what had been gained."""
    best = _best(steps)
    risen = -sum(float(step.drops.mean()) for step in steps[best:])
    error = sum(step.variance for step in steps[best:]) ** 0.5
    return risen > _RISEN * error and risen > _LOST * sum(float(step.drops.mean()) for step in steps[:best])


def _shared_out(steps: Sequence[_Step], layers: Sequence[LayerSpec], config: ProfilingConfig, *, samples: int) -> Joint:
    counted = steps[: _best(steps)] if steps else []
    drop = sum(float(step.drops.mean()) for step in counted)
    error = sum(step.variance for step in counted) ** 0.5
    return Joint(
        gains={spec.layer: sum(step.shares[spec.layer] for step in counted) for spec in layers},
        settings=JointRun(
            rank=config.proxy_rank,
            batch_size=config.proxy_batch_size,
            num_samples=samples,
            steps=len(counted),
            learning_rate=counted[-1].rate if counted else _RATES[0],
            drop=drop,
            standard_error=error,
            is_blind=not drop > _LEAST_SIGNIFICANCE * error,
        ),
    )
