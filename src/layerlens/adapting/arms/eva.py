"""EVA: LoRA started from the principal directions of each layer's inputs, its ranks dealt out by the variance they explain.

Source: Paischer et al. (2024), arXiv 2410.07170; PEFT's implementation with its defaults (rho 2: no layer gets more than twice
the rank it started with; tau 0.99), over the training batches, padding left out.

EVA counts ranks and not parameters, so a number of ranks is looked for that comes to the plan's parameters or a little more;
what is above them is taken off again, the weakest directions of the layers with most ranks first. `details` of the arm
hold what EVA's own count came to, and the seconds that its start took, which are not training time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import torch
from peft import EvaConfig, get_eva_state_dict, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from layerlens.adapting.arms.apportionment import apportion
from layerlens.adapting.arms.job import ArmJob, Prepared, base_config, peft_attached, start_from_
from layerlens.adapting.arms.ranks import largest_rank, linear_layers, uniform_plan, with_ranks
from layerlens.adapting.attach import start_adapters_
from layerlens.adapting.hooks import Hooks
from layerlens.adapting.lora import ADAPTER, PEFT_PREFIX
from layerlens.adapting.precision import kept_generators, training_device
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.data.example import Batch
from layerlens.errors import LayerLensError

RHO, TAU = 2.0, 0.99
#: Batches that the principal directions are taken from, over and over until they settle.
NUM_BATCHES = 64
#: Batches after which directions that have not settled never will.
MOST_BATCHES = 1024
#: Numbers of ranks that are tried.
MOST_TRIES = 8


def run_eva(job: ArmJob) -> Arm:
    """Train EVA over all layers at the plan's parameters.

    Raises:
        LayerLensError: the principal directions do not settle.
    """
    plan = uniform_plan(job.plan, {})

    @contextmanager
    def prepared() -> Iterator[Prepared]:
        started = time.monotonic()
        directions, own_params = _redistributed(job, plan)
        seconds = time.monotonic() - started
        made = with_ranks(plan, {layer: len(rows) for layer, rows in directions.items()})
        with peft_attached(job, base_config(made, job.task_model.model)) as adapted:
            start_adapters_(adapted, seed=job.config.seed)
            start_from_(adapted, directions)
            details = {
                "ranks": made.ranks,
                "own_params": own_params,
                "allowed_params": job.plan.params,
                "start_seconds": seconds,
            }
            yield Prepared(adapted, made.params, Hooks(outcome=lambda: {"trainable_params": made.params, "details": details}))

    trained = {"method": "eva", "rho": RHO, "tau": TAU, "ranks": plan.ranks, "head": plan.head}
    return job.run_adapters(trained, plan.params, prepared)


def _redistributed(job: ArmJob, plan: Plan) -> tuple[dict[str, Tensor], int]:
    """EVA's directions `[rank, in_features]` of every layer that it gives a rank, at the plan's parameters; and its own count."""
    layers = linear_layers(plan)
    costs = [entry.in_features + entry.out_features for entry in layers]
    num_ranks = sum(plan.ranks.values())
    most_ranks = sum(map(largest_rank, layers))
    tried: dict[int, _Tried] = {}
    for _ in range(MOST_TRIES):
        found = _directions(job, plan, num_ranks)
        had = [len(found.get(entry.layer, ())) for entry in layers]
        own = sum(cost * rank for cost, rank in zip(costs, had, strict=True))
        kept = apportion([float(rank) for rank in had], costs, had, plan.params)
        missing = plan.params - sum(cost * rank for cost, rank in zip(costs, kept, strict=True))
        cut = {entry.layer: found[entry.layer][:rank] for entry, rank in zip(layers, kept, strict=True) if rank}
        tried[num_ranks] = _Tried(missing, own, cut)
        too_many = (own - plan.params) * sum(had) / own
        if own < plan.params:
            num_ranks += max(1, ceil(-too_many))
        elif own > plan.params + max(costs):
            num_ranks -= max(1, floor(too_many))
        elif missing:
            num_ranks += 1
        num_ranks = min(most_ranks, max(1, num_ranks))
        if num_ranks in tried:
            break
    best = min(tried.values(), key=lambda one: (one.missing, abs(one.own - plan.params)))
    return best.directions, best.own


@dataclass(frozen=True)
class _Tried:
    """What a number of ranks came to: parameters that are missing when cut to the plan's, EVA's own, and what is left."""

    missing: int
    own: int
    directions: dict[str, Tensor]


def _directions(job: ArmJob, plan: Plan, num_ranks: int) -> dict[str, Tensor]:
    """What EVA makes of so many ranks, spread evenly over all layers."""
    layers = linear_layers(plan)
    ranks = apportion([1.0] * len(layers), [1] * len(layers), [largest_rank(entry) for entry in layers], num_ranks)
    spread = with_ranks(plan, {entry.layer: rank for entry, rank in zip(layers, ranks, strict=True)})
    config = base_config(spread, job.task_model.model)
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=RHO, tau=TAU)
    # EVA looks names up with PEFT's prefix before them, which an anchored key does not fit.
    config.rank_pattern = {key.removeprefix("^"): rank for key, rank in config.rank_pattern.items()}
    config.alpha_pattern = {key.removeprefix("^"): alpha for key, alpha in config.alpha_pattern.items()}
    with _advice_hidden(), peft_attached(job, config) as adapted, kept_generators(training_device()):
        torch.manual_seed(job.config.seed)
        state = get_eva_state_dict(
            adapted,
            _batches(job),
            forward_fn=_Forward(job),
            prepare_model_inputs_fn=lambda inputs, _: inputs.get("mask"),
            prepare_layer_inputs_fn=_rows,
            show_progress_bar=False,
        )
        initialize_lora_eva_weights(adapted, eva_state_dict=state)
        return {
            path.removeprefix(PEFT_PREFIX): module.lora_A[ADAPTER].weight.detach().clone()
            for path, module in adapted.named_modules()
            if isinstance(module, LoraLayer)
        }


@contextmanager
def _advice_hidden() -> Iterator[None]:
    """Hide PEFT's advice to start without memory for the rows that EVA is about to put in."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lora with eva initialization used with low_cpu_mem_usage=False")
        yield


def _batches(job: ArmJob) -> list[dict[str, Any]]:
    """The first batches of training, each with the mask of its tokens."""
    training, task, config = job.training, job.data.task, job.config
    num = min(NUM_BATCHES, max(2, len(training) // min(config.batch_size, len(training))))
    batches = []
    for indices in training.batches(batch_size=config.batch_size, num_steps=num, seed=config.seed):
        batch = task.collate([job.data.examples[index] for index in indices])
        mask = task.token_mask(batch)
        batches.append({"inputs": task.model_inputs(batch), **({} if mask is None else {"mask": mask})})
    return batches


class _Forward:
    """Runs the model, and stops where EVA would run it for ever."""

    def __init__(self, job: ArmJob) -> None:
        self._name, self._left = job.name, MOST_BATCHES

    def __call__(self, model: nn.Module, inputs: dict[str, Batch]) -> object:
        self._left -= 1
        if self._left < 0:
            raise LayerLensError(
                f"{self._name}: the principal directions of the inputs have not settled after {MOST_BATCHES} batches; "
                "train on more samples, or leave this arm out"
            )
        return model(**inputs["inputs"])


def _rows(layer_input: Any, mask: Tensor | None, name: str) -> Tensor:
    """The rows that a layer reads, without padding."""
    rows = layer_input[0] if isinstance(layer_input, tuple | list) else layer_input
    if mask is not None and rows.shape[: mask.ndim] == mask.shape:
        return rows[mask]
    return rows.reshape(-1, rows.shape[-1])
