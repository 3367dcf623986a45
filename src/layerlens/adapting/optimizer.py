"""AdamW with linear warm-up and linear decay to zero: one definition for the race and for the final run."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from layerlens.config import TrainingConfig
from layerlens.nn.bottleneck import BOTTLENECK, BOTTLENECK_RATE
from layerlens.nn.prefix import PREFIX, PREFIX_RATE

#: How PEFT names the trained copies of the modules that a plan trains beside its adapters.
_SAVED_MODULE = ".modules_to_save.default"
_PEFT_PREFIX = "base_model.model."
#: Rates of our own modules, as multiples of LoRA's.
_RATES = {f".{BOTTLENECK}.": BOTTLENECK_RATE, f".{PREFIX}.": PREFIX_RATE}
#: How PEFT names the factor of a LoRA that starts at zero.
_FACTOR_B = ".lora_B."
#: Share of the adapters' rate that pretrained matrices beside them get. On MiniLM a pooler at the full rate of 1e-3 threw the
#: held-out loss from 1.49 to 2.32 in 80 steps; at a tenth or not trained at all it ended at 1.44 and 1.45, and at 3e-3 a tenth
#: (1.54) was still worse than nothing (1.45).
PRETRAINED_SHARE = 0.05


def build_optimizer(model: nn.Module, config: TrainingConfig, *, new_parameters: Collection[str] = ()) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (biases, norms) are not decayed.

    Beside an adapter, a head of full matrices wants the small steps of full fine-tuning while the thin factors want large ones:
    it gets `head_learning_rate`, or without one the adapters' rate where it is new and a twentieth where it is pretrained.
    Bottlenecks and prefixes get a multiple of LoRA's rate, so that one `learning_rate` serves a mixed plan. LoRA's factor B gets
    `loraplus_lr_ratio` times the rate of A (LoRA+: Hayou et al. 2024, arXiv 2402.12354). Where the whole model trains there is
    one rate.

    Args:
        model: A PEFT model, or a plain one that trains as a whole.
        config: Rates and decay.
        new_parameters: Names, in the plain model, of the parameters that the checkpoint lacks.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((_rate(name, config, new_parameters), decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()],
        lr=config.learning_rate,
    )


def _rate(name: str, config: TrainingConfig, new_parameters: Collection[str]) -> float:
    """Peak learning rate of a parameter by its name in a PEFT model."""
    if _SAVED_MODULE not in name:
        rates = {**_RATES, _FACTOR_B: config.loraplus_lr_ratio}
        return config.learning_rate * next((rate for part, rate in rates.items() if part in name), 1.0)
    if config.head_learning_rate is not None:
        return config.head_learning_rate
    is_new = name.removeprefix(_PEFT_PREFIX).replace(_SAVED_MODULE, "") in new_parameters
    return config.learning_rate * (1.0 if is_new else PRETRAINED_SHARE)


def build_schedule(optimizer: torch.optim.Optimizer, *, num_steps: int, warmup_ratio: float) -> LambdaLR:
    """Rise linearly over the first `warmup_ratio` of the steps, fall linearly to zero at the last."""
    return LambdaLR(optimizer, LinearWarmupDecay(num_steps, ceil(warmup_ratio * num_steps)))


class LinearWarmupDecay:
    """Share of the peak learning rate at a step, counted from 0; a class, so that a scheduler's state can hold it."""

    def __init__(self, num_steps: int, warmup_steps: int) -> None:
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return max(0.0, (self.num_steps - step) / max(1, self.num_steps - self.warmup_steps))
