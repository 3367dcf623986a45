"""Plans that mix methods, made by hand for tiny models."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import Budget, Plan, PlanLayer, inconsistencies
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import SITE_OF_METHOD, BudgetName, Method, TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, make_plan

#: GPT-Neo's attention does not use transformers' interface.
PREFIX_FAMILIES = tuple(family for family in EVERY_FAMILY if family != "gpt_neo")


def mixed_plan(
    task_model: TaskModel,
    kind: TaskKind,
    methods: Collection[Method] = tuple(Method),
    *,
    rank: int = 2,
    bottleneck: int = 3,
    tokens: int = 2,
    blocks: Collection[int] = (0, 1),
    name: str = "mixed",
) -> Plan:
    """LoRA on every layer, a bottleneck after every sublayer and a prefix on every attention, of the methods asked for."""
    layout = describe_layers(task_model.model)
    ranks = {spec.layer: rank for spec in layout.layers if Method.LORA in methods and spec.block in blocks}
    plan = make_plan(task_model, kind, ranks, name=name)
    added: list[PlanLayer] = []
    if Method.ADAPTER in methods:
        added += [
            _entry(entry, Method.ADAPTER, entry.layer, entry.role, bottleneck, 0)
            for entry, spec in zip(plan.layers, layout.layers, strict=True)
            if spec.role.is_sublayer_output and spec.block in blocks
        ]
    if Method.PREFIX in methods:
        added += [
            _entry(plan.layers[0], Method.PREFIX, block.attention or "", "attention", tokens, block.kv_features, block.block)
            for block in layout.blocks
            if block.block in blocks
        ]
    layers = [*plan.layers, *added]
    spent = {BudgetName.TRAINABLE_PARAMS: Budget(limit=None, spent=sum(entry.params for entry in layers))}
    mixed = plan.model_copy(update={"layers": layers, "budgets": spent})
    assert inconsistencies(mixed) == []
    return mixed


def randomise_(model: nn.Module, *, seed: int = 0, scale: float = 0.1) -> None:
    """Move every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def inputs_of(kind: TaskKind) -> dict[str, Tensor]:
    """A small batch with padding, or images."""
    if kind is TaskKind.IMAGE_CLASSIFICATION:
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    return {"input_ids": torch.arange(12).reshape(2, 6) + 5, "attention_mask": mask}


def logits_of(model: nn.Module, kind: TaskKind) -> Tensor:
    """What a model gives out for that batch, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(**inputs_of(kind)).logits


def _entry(
    like: PlanLayer, method: Method, layer: str, role: str, size: int, kv_features: int, block: int | None = None
) -> PlanLayer:
    width = like.out_features if method is Method.ADAPTER else like.in_features
    params = trainable_params(method, size, in_features=width, out_features=width, kv_features=kv_features)
    return like.model_copy(
        update={
            "layer": layer,
            "role": role,
            "site": SITE_OF_METHOD[method],
            "method": method,
            "size": size,
            "params": params,
            "kv_features": kv_features,
            "block": like.block if block is None else block,
        }
    )
