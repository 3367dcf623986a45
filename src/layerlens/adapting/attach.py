"""Adapters on one base model in memory, put on and taken off again, the base untouched to the bit.

PEFT's own `unload` leaves the *trained copy* of each head module in the model, and leaves the base frozen. Here the
original modules go back, and every flag is as it was, also where PEFT failed half-way.

Each layer's LoRA starts from a generator of its own, seeded by seed and layer, and a smaller rank's start is the first
rows of a larger one's: two plans that share a layer share its start, which takes noise out of their comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from layerlens.adapting.lora import ADAPTER, adapted_modules, check_realised, lora_config, peft_warnings_hidden
from layerlens.adapting.site_modules import check_sites, site_modules, sites_attached
from layerlens.artifacts.plan import Plan
from layerlens.errors import UnsupportedModelError, few
from layerlens.models.foreign import one_line
from layerlens.models.weights import is_transposed


@contextmanager
def attached(model: PreTrainedModel, plan: Plan, *, seed: int) -> Iterator[PeftModel]:
    """Adapt `model` by a plan inside the context; afterwards it is bit for bit what it was.

    Args:
        model: The task model; changed in place inside the context.
        plan: LoRA goes on through PEFT, bottlenecks and prefixes are our own modules.
        seed: Of the adapters' start.

    Yields:
        The PEFT model around `model`, its head a trainable copy, nothing else of the base trainable.

    Raises:
        ManifestError: a layer that the model has not.
        UnsupportedModelError: a prefix on an attention that cannot have one, or a model that PEFT puts no LoRA on.
        LayerLensError: what PEFT made is not what the plan says.
    """
    modules, sites = adapted_modules(plan, model), site_modules(plan)
    check_sites(sites, model)
    config = lora_config(plan, is_transposed=any(map(is_transposed, modules.values())))
    with restored(model, plan.head):
        adapted = put_on_(model, config)
        start_adapters_(adapted, seed=seed)
        with sites_attached(model, sites, seed=seed):
            check_realised(plan, adapted)
            yield adapted


def put_on_(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Let PEFT adapt a model, in place.

    Raises:
        UnsupportedModelError: PEFT cannot, or puts adapters in other places than it was told.
    """
    try:
        with peft_warnings_hidden():
            adapted: PeftModel = get_peft_model(model, config)
    except ValueError as error:
        raise UnsupportedModelError(
            f"PEFT puts no LoRA on this {type(model).__name__} ({one_line(error)}); plan again with --methods adapter,none"
        ) from error
    # In some families of mixtures PEFT looks for every MLP among fused experts, those that have none (DeepSeek-V3) included.
    if moved := getattr(config, "target_parameters", None):
        raise UnsupportedModelError(
            f"PEFT puts no LoRA on the MLPs of this {type(model).__name__}, which it takes for experts ({few(sorted(moved))}); "
            "plan again with --methods adapter,none"
        )
    return adapted


@contextmanager
def restored(model: PreTrainedModel, heads: list[str]) -> Iterator[None]:
    """Put modules, flags and config fields of `model` back on exit; its weights are the caller's to keep."""
    originals = {path: model.get_submodule(path) for path in heads}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    had_cache = getattr(model.config, "use_cache", None)
    attributes = set(vars(model))
    try:
        yield
    finally:
        wrapped = {path: module.base_layer for path, module in model.named_modules() if isinstance(module, LoraLayer)}
        for path, module in {**wrapped, **originals}.items():
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
        for name, module in model.named_modules():
            # BigBird makes another attention for itself once it has met a short sample.
            module.training = modes.get(name, model.training)
        # accelerate puts an autocasting `forward` on the model itself.
        for name in set(vars(model)) - attributes:
            delattr(model, name)
        # The Trainer switches the cache of a decoder off and leaves it so.
        if had_cache is not None:
            model.config.use_cache = had_cache


def start_adapters_(model: nn.Module, *, seed: int) -> None:
    """Start every LoRA: down uniform in ±1/√in_features (PEFT's own distribution), up zero, by seed and layer."""
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        generator = layer_generator(path.removeprefix("base_model.model."), seed=seed)
        bound = down.shape[1] ** -0.5
        with torch.no_grad():
            start = torch.empty(down.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            down.copy_(start)
            up.zero_()


def layer_generator(layer: str, *, seed: int) -> torch.Generator:
    """A generator of this layer's own: what it draws depends on the seed and the layer alone."""
    digest = hashlib.sha256(f"{seed}:{layer}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
