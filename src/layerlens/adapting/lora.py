"""From a plan to PEFT's LoRA config, and the check that PEFT made what the plan says.

Rank 0 does not exist: "none" is absence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from layerlens.adapting.site_modules import realised_sites, site_modules
from layerlens.adapting.stored_lora import STORED_LORA
from layerlens.artifacts.peft_lora import TASK_TYPES, alpha_of_rank, pattern_key
from layerlens.artifacts.plan import Plan
from layerlens.errors import LayerLensError, ManifestError
from layerlens.models.load import TaskModel
from layerlens.models.weights import is_adaptable_module, layer_features
from layerlens.words import Method, TaskKind

#: PEFT accepts this name in place of targets where only `modules_to_save` are trained.
NO_TARGETS = "dummy-target-modules"
ADAPTER = "default"
#: What PEFT puts before a module's path.
PEFT_PREFIX = "base_model.model."


def lora_config(plan: Plan, *, is_transposed: bool) -> LoraConfig:
    """Write a plan's LoRA as PEFT's config; PEFT has no form for the other methods.

    Args:
        plan: The plan.
        is_transposed: The adapted layers are `Conv1D`, whose weight is stored [in, out].
    """
    ranks = plan.ranks
    largest = max(ranks.values(), default=1)
    keys = {layer: pattern_key(layer) for layer in ranks}
    # By some task types PEFT adds a head of its own choice to train; a plan without one means none.
    task_type = TASK_TYPES[plan.task.kind] if plan.head or plan.task.kind is TaskKind.CAUSAL_LM else None
    config = LoraConfig(
        task_type=TaskType(task_type) if task_type else None,
        r=largest,
        lora_alpha=alpha_of_rank(plan.alpha_over_rank, largest),
        target_modules=sorted(ranks) if ranks else NO_TARGETS,
        rank_pattern={keys[layer]: rank for layer, rank in ranks.items()},
        alpha_pattern={keys[layer]: alpha_of_rank(plan.alpha_over_rank, rank) for layer, rank in ranks.items()},
        modules_to_save=list(plan.head) or None,
        fan_in_fan_out=is_transposed,
        lora_dropout=0.0,
        bias="none",
    )
    config._register_custom_module(STORED_LORA)
    return config


def check_model(plan: Plan, task_model: TaskModel) -> None:
    """Check that a plan was made for the very model in memory.

    Raises:
        ManifestError: it is a plan of another model.
    """
    if (found := task_model.checkpoint.hash()) != plan.model.hash:
        raise ManifestError(
            f"a plan of another model: it was made for {plan.model.id} with hash {plan.model.hash[:12]}, "
            f"{task_model.checkpoint.id} has {found[:12]}; profile and plan this model"
        )


def adapted_modules(plan: Plan, model: nn.Module) -> dict[str, nn.Module]:
    """Find every layer that the plan gives a LoRA, and check its shape.

    Raises:
        ManifestError: layers are missing or of another shape; all are named.
    """
    modules = dict(model.named_modules())
    faults, found = [], {}
    for entry in plan.layers:
        if entry.method is not Method.LORA:
            continue
        module = modules.get(entry.layer)
        if module is None or not is_adaptable_module(module):
            faults.append(f"{entry.layer}: the model has no such layer")
            continue
        out_features, in_features = layer_features(module)
        if (out_features, in_features) != (entry.out_features, entry.in_features):
            needed = f"{entry.out_features} × {entry.in_features}"
            faults.append(f"{entry.layer}: the model has {out_features} × {in_features}, the plan says {needed}")
            continue
        found[entry.layer] = module
    faults += [f"{path}: the plan trains it as head, the model has no such module" for path in plan.head if path not in modules]
    if faults:
        raise ManifestError(f"the plan does not fit the model: {'; '.join(faults[:5])}; profile and plan this model")
    return found


def check_realised(plan: Plan, model: nn.Module) -> None:
    """Check that a PEFT model trains exactly what the plan says: the same sites, sizes, scaling and parameters.

    Raises:
        LayerLensError: something else was made; never trained on.
    """
    ranks, scalings = {}, set()
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            ranks[path.removeprefix(PEFT_PREFIX)] = module.r[ADAPTER]
            scalings.add(module.scaling[ADAPTER])
    faults = _differences(plan.ranks, ranks, "rank")
    found = {path.removeprefix(PEFT_PREFIX): size for path, size in realised_sites(model).items()}
    faults += _differences({site.path: site.size for site in site_modules(plan)}, found, "size")
    if any(abs(scaling - plan.alpha_over_rank) > 1e-9 for scaling in scalings):
        faults.append(f"alpha / r is {sorted(scalings)}, the plan says {plan.alpha_over_rank:g} everywhere")
    realised = count_trainable(model)
    needed = plan.params + plan.head_params
    if realised != needed:
        faults.append(
            f"{realised:,} parameters are trainable, the plan has {needed:,} ({plan.params:,} of adapters and "
            f"{plan.head_params:,} of the head)"
        )
    if faults:
        raise LayerLensError(f"PEFT did not realise the plan: {'; '.join(faults)}; report this with the plan")


@contextmanager
def peft_warnings_hidden() -> Iterator[None]:
    """Hide what PEFT warns of and no user can change."""
    with warnings.catch_warnings():
        # A model with Linear and Conv1D layers: PEFT settles the orientation per layer and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # What was made is held against the plan, layer by layer.
        warnings.filterwarnings("ignore", message="target_parameters=|The following (rank|alpha)_pattern keys did not match")
        # PEFT reads a name that transformers has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def count_trainable(model: nn.Module) -> int:
    """Parameters that take a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trainable parameter by its name in `model`, detached and not copied."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _differences(needed: Mapping[str, int], found: Mapping[str, int], what: str) -> list[str]:
    names = [name for name in sorted({*needed, *found}) if needed.get(name) != found.get(name)]
    return [f"{name}: {what} {found.get(name, 0)} in place of {needed.get(name, 0)}" for name in names[:5]]
