"""AdaLoRA: starts with more ranks than it may keep and masks the least important ones while it trains.

Source: Zhang et al. (2023), arXiv 2303.10512; PEFT's implementation, with PEFT's penalty ‖PPᵀ − I‖_F on factors that are not
orthogonal. A triplet is one rank of one layer: a row of A, a column of B and the number between them, in + out + 1 parameters.

    steps    1 ─── tinit ────────── total − tfinal ───── total
    ranks    1.5 × kept │  falling, cubic │ kept, fine-tuned

AdaLoRA counts ranks and not parameters. So at its last allocation it keeps as many of the most important triplets as have no
more parameters than the plan; the number of ranks that it falls to before is what that comes to at mean width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel
from peft.tuners.adalora import AdaLoraLayer, RankAllocator
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from layerlens.adapting.arms.job import ArmJob, Prepared, base_config, peft_attached
from layerlens.adapting.arms.ranks import even_ranks, largest_rank, linear_layers, with_ranks
from layerlens.adapting.attach import layer_generator
from layerlens.adapting.hooks import Hooks
from layerlens.adapting.lora import ADAPTER, PEFT_PREFIX
from layerlens.artifacts.evaluation import Arm
from layerlens.errors import ConfigError

STATE_FILE = "rank_allocator.safetensors"
#: Ranks at the start over ranks kept, as in the paper.
START_SHARE = 1.5
#: Shares of the steps before the ranks fall and after they have fallen, about those of the paper's GLUE runs.
INITIAL_SHARE, FINAL_SHARE = 0.1, 0.5
#: Allocations at most.
NUM_ALLOCATIONS = 1000
#: Spread of the factors at the start, PEFT's own.
_START_SPREAD = 0.02


def run_adalora(job: ArmJob) -> Arm:
    """Train AdaLoRA on every layer; `details` of the arm hold the ranks that it kept.

    Raises:
        ConfigError: fewer than two training steps, or a plan with too few parameters.
    """
    layers = linear_layers(job.plan)
    even_ranks(job.plan, layers)
    costs = {entry.layer: entry.in_features + entry.out_features + 1 for entry in layers}
    num_kept = max(1, job.plan.params * len(costs) // sum(costs.values()))
    start = min(ceil(START_SHARE * num_kept / len(costs)), min(map(largest_rank, layers)))
    num_kept = min(num_kept, start * len(costs) - 1)
    schedule = _schedule(job.num_steps)

    @contextmanager
    def prepared() -> Iterator[Prepared]:
        everywhere = base_config(with_ranks(job.plan, dict.fromkeys(costs, start)), job.task_model.model)
        config = AdaLoraConfig(
            task_type=everywhere.task_type,
            target_modules=sorted(costs),
            modules_to_save=everywhere.modules_to_save,
            fan_in_fan_out=everywhere.fan_in_fan_out,
            lora_alpha=everywhere.lora_alpha,
            lora_dropout=0.0,
            bias="none",
            init_r=start,
            target_r=max(1, num_kept // len(costs)),
            **schedule,
        )
        with peft_attached(job, config) as adapted:
            start_factors_(adapted, seed=job.config.seed)
            budget = RankBudget(adapted, costs, job.plan.params, num_kept, job.out / "checkpoints")
            yield Prepared(
                adapted,
                start * sum(costs.values()),
                Hooks(callbacks=(budget,), extra_loss=lambda: orthogonal_penalty(adapted), outcome=budget.outcome),
            )

    trained = {"method": "adalora", "layers": sorted(costs), "params": job.plan.params, "start": start, "head": job.plan.head}
    return job.run_adapters({**trained, "schedule": schedule}, job.plan.params, prepared)


def start_factors_(model: PeftModel, *, seed: int) -> None:
    """Start every triplet as PEFT does, by seed and layer: both factors normal, the number between them zero."""
    for path, module in _layers(model).items():
        generator = layer_generator(path, seed=seed)
        with torch.no_grad():
            for factor in (module.lora_A[ADAPTER], module.lora_B[ADAPTER]):
                factor.copy_(torch.empty(factor.shape).normal_(0.0, _START_SPREAD, generator=generator))
            module.lora_E[ADAPTER].zero_()


def orthogonal_penalty(model: PeftModel) -> Tensor:
    """PEFT's penalty, which it adds only to losses that a model computes itself: weight × mean of ‖PPᵀ − I‖_F, float32."""
    factors = [rows for module in _layers(model).values() for rows in (module.lora_A[ADAPTER], module.lora_B[ADAPTER].t())]
    terms = [torch.linalg.matrix_norm(rows @ rows.t() - torch.eye(len(rows), device=rows.device)) for rows in factors]
    return model.peft_config[ADAPTER].orth_reg_weight * torch.stack(terms).mean()


class RankBudget(TrainerCallback):  # type: ignore[misc]
    """Lets PEFT allocate ranks after every optimiser step, while the gradients are still there.

    Args:
        model: PEFT's model.
        costs: Parameters of one triplet of each layer.
        params: Parameters that the kept triplets may have.
        num_kept: Triplets that the number of ranks falls to before the last allocation.
        checkpoints: Folder of the Trainer's checkpoints, where the importance scores are kept too.
    """

    def __init__(self, model: PeftModel, costs: dict[str, int], params: int, num_kept: int, checkpoints: Path) -> None:
        self.tuner: AdaLoraModel = model.base_model
        self.layers, self.costs, self.params, self.checkpoints = _layers(model), costs, params, checkpoints
        self.allocator: RankAllocator = self.tuner.rankallocator
        self.allocator.target_bgt = num_kept

    @property
    def config(self) -> AdaLoraConfig:
        return self.tuner.peft_config[ADAPTER]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read the scores and masks back where a run goes on."""
        if state.global_step == 0:
            return
        found = load_file(self.checkpoints / f"checkpoint-{state.global_step}" / STATE_FILE)
        device = next(iter(self.layers.values())).lora_E[ADAPTER].device
        parts: dict[str, dict[str, Tensor]] = {"mask": {}, "mean": {}, "spread": {}}
        for key, tensor in found.items():
            kind, _, name = key.partition(":")
            parts[kind][name] = tensor.to(device)
        self.allocator.exp_avg_ipt, self.allocator.exp_avg_unc = parts["mean"], parts["spread"]
        self.allocator.ipt = dict(parts["mean"])
        self.config.rank_pattern = {name: mask.bool().tolist() for name, mask in parts["mask"].items()} or None

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the scores and mask what is not important."""
        step, config = state.global_step + 1, self.config
        if step == config.total_step - config.tfinal:
            self.allocator.target_bgt = self.affordable()
        self.tuner.update_and_allocate(step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep what the next allocation hangs on."""
        found = {f"mask:{name}": torch.tensor(mask, dtype=torch.uint8) for name, mask in (self.config.rank_pattern or {}).items()}
        found |= {f"mean:{name}": tensor.cpu() for name, tensor in self.allocator.exp_avg_ipt.items()}
        found |= {f"spread:{name}": tensor.cpu() for name, tensor in self.allocator.exp_avg_unc.items()}
        save_file(found, self.checkpoints / f"checkpoint-{state.global_step}" / STATE_FILE)

    def affordable(self) -> int:
        """How many of the most important triplets have no more parameters than allowed; masks nothing."""
        values = [module.lora_E[ADAPTER] for module in self.layers.values()]
        kept = [value.detach().clone() for value in values]
        low, high = 0, self.allocator.init_bgt - 1
        while low < high:
            middle = (low + high + 1) // 2
            pattern = self.allocator.mask_to_budget(self.tuner.model, middle)
            if self._count(pattern) <= self.params:
                low = middle
            else:
                high = middle - 1
        with torch.no_grad():
            for value, before in zip(values, kept, strict=True):
                value.copy_(before)
        return low

    def outcome(self) -> dict[str, Any]:
        """The parameters of the triplets that are kept, and their ranks."""
        pattern = self.config.rank_pattern or {}
        return {
            "trainable_params": self._count(pattern),
            "details": {
                "ranks": {name: sum(mask) for name, mask in self._by_layer(pattern).items() if any(mask)},
                "start_rank": self.config.init_r,
                "start_params": self.config.init_r * sum(self.costs.values()),
                "allowed_params": self.params,
            },
        }

    def _by_layer(self, pattern: dict[str, list[bool]]) -> dict[str, list[bool]]:
        return {name.removeprefix(PEFT_PREFIX).partition(".lora_E")[0]: mask for name, mask in pattern.items()}

    def _count(self, pattern: dict[str, list[bool]]) -> int:
        return sum(self.costs[name] * sum(mask) for name, mask in self._by_layer(pattern).items())


def _schedule(num_steps: int) -> dict[str, int]:
    """PEFT's schedule: at least one step before the last allocation has scores.

    Raises:
        ConfigError: fewer than two steps.
    """
    if num_steps < 2:
        raise ConfigError(f"adalora needs 2 training steps or more to allocate its ranks, got {num_steps}; raise --max-steps")
    final = min(int(FINAL_SHARE * num_steps), num_steps - 2)
    initial = min(int(INITIAL_SHARE * num_steps), num_steps - final - 1)
    return {
        "tinit": initial,
        "tfinal": final,
        "deltaT": max(1, (num_steps - initial - final) // NUM_ALLOCATIONS),
        "total_step": num_steps,
    }


def _layers(model: PeftModel) -> dict[str, AdaLoraLayer]:
    """PEFT's layers by the path of the layer that each adapts."""
    return {path.removeprefix(PEFT_PREFIX): module for path, module in model.named_modules() if isinstance(module, AdaLoraLayer)}
