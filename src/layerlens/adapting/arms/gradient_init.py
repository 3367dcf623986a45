"""Uniform LoRA whose down projections read the inputs that the best update of its rank reads (`linalg/whitened_directions.py`).

G, A and B come from a small pass of its own over training samples; rows have the length that PEFT's start has on average, and
the up projection is zero, so that this arm differs from uniform in nothing but where it looks. A layer without a gradient keeps
the usual start. `details` of the arm hold the seconds that the pass took, which are not training time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layerlens.adapting.arms.job import ArmJob, Prepared, base_config, peft_attached, start_from_
from layerlens.adapting.arms.ranks import uniform_plan
from layerlens.adapting.attach import start_adapters_
from layerlens.adapting.hooks import Hooks
from layerlens.adapting.samples import choose
from layerlens.artifacts.evaluation import Arm
from layerlens.data.inference import to_device
from layerlens.linalg.cholesky_whitening import damped_whitener
from layerlens.linalg.gram import GramSum
from layerlens.linalg.whitened_directions import whitened_directions
from layerlens.models.forward_hooks import on_backward, taken_off
from layerlens.models.frozen import frozen

#: Training samples that the gradient is taken from.
NUM_SAMPLES = 256
#: Ridge on each Gram as a share of its mean eigenvalue, as in a profile.
DAMPING = 0.1
#: Rows of each Gram, about.
GRAM_ROWS = 4096


def run_gradient_init(job: ArmJob) -> Arm:
    """Train the uniform arm's ranks from this start."""
    plan = uniform_plan(job.plan, job.candidates)

    @contextmanager
    def prepared() -> Iterator[Prepared]:
        started = time.monotonic()
        directions = gradient_directions(job, plan.ranks)
        details = {"start_seconds": time.monotonic() - started}
        with peft_attached(job, base_config(plan, job.task_model.model)) as adapted:
            start_adapters_(adapted, seed=job.config.seed)
            # Entries uniform in ±1/√in: rows of a squared length of 1/3.
            start_from_(adapted, {layer: rows / 3**0.5 for layer, rows in directions.items()})
            yield Prepared(adapted, plan.params, Hooks(outcome=lambda: {"details": details}))

    trained = {"method": "gradient-init", "samples": NUM_SAMPLES, "damping": DAMPING, "ranks": plan.ranks, "head": plan.head}
    return job.run_adapters({**trained, "alpha_over_rank": plan.alpha_over_rank}, plan.params, prepared)


def gradient_directions(job: ArmJob, ranks: Mapping[str, int]) -> dict[str, Float[Tensor, "rank in_features"]]:
    """Leading input directions of every layer's whitened mean gradient; none for a layer without a gradient."""
    model, task, examples = job.task_model.model, job.data.task, job.data.examples
    device = next(model.parameters()).device
    chosen = choose(job.training.indices, NUM_SAMPLES, seed=job.config.seed)
    sums = {layer: _Sums(model.get_submodule(layer)) for layer in ranks}
    with frozen(model), _hooked(sums):
        for start in range(0, len(chosen), job.config.batch_size):
            batch = to_device(task.collate([examples[index] for index in chosen[start : start + job.config.batch_size]]), device)
            mask = task.token_mask(batch)
            for one in sums.values():
                one.mask = mask
            with torch.enable_grad():
                task.per_sample_loss(model(**task.model_inputs(batch)), batch).sum().backward()
    return {layer: rows for layer, one in sums.items() if (rows := one.directions(ranks[layer])) is not None}


class _Sums:
    """G, and the Grams A and B of a layer; B needs no scale, for only directions are asked for."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.mask: Bool[Tensor, "samples tokens"] | None = None
        self._gradient: Float[Tensor, "out_features in_features"] | None = None
        self._grams: tuple[GramSum, GramSum] | None = None

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add what a layer read and the gradient of what it gave."""
        rows, changes = self._rows(inputs).float(), self._rows(gradient).float()
        if self._grams is None or self._gradient is None:
            self._gradient = rows.new_zeros(changes.shape[1], rows.shape[1])
            self._grams = GramSum(rows.shape[1], GRAM_ROWS), GramSum(changes.shape[1], GRAM_ROWS)
        self._gradient.addmm_(changes.t(), rows)
        if self._grams[0].num_rows < GRAM_ROWS:
            for gram, values in zip(self._grams, (rows, changes), strict=True):
                gram.add(values)

    def _rows(self, values: Tensor) -> Float[Tensor, "rows features"]:
        if self.mask is not None and values.shape[:2] == self.mask.shape:
            return values[self.mask]
        return values.flatten(0, -2)

    def directions(self, rank: int) -> Float[Tensor, "rank in_features"] | None:
        """The layer's directions; none without a gradient."""
        if self._grams is None or self._gradient is None:
            return None
        whiteners = [damped_whitener(gram, gram.num_rows, DAMPING, releases=True) for gram in self._grams]
        if whiteners[0] is None or whiteners[1] is None or not bool(self._gradient.any()):
            return None
        return whitened_directions(self._gradient, whiteners[0], whiteners[1], rank)


@contextmanager
def _hooked(sums: Mapping[str, _Sums]) -> Iterator[None]:
    with taken_off([on_backward(one.module, one.add) for one in sums.values()]):
        yield
