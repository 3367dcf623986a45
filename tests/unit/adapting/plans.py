"""Tiny task models with plans made for them by hand: ranks in, a plan that adds up out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import Budget, Chosen, Plan, PlanLayer, PlanMetadata, Solver, inconsistencies
from layerlens.artifacts.profile import TaskInfo
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.head import describe_model
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.roles import describe_layers
from layerlens.words import BudgetName, Method, TaskKind
from tests.tiny_models import save_tiny

DECODERS = ("gpt2", "gpt_neo", "llama", "mistral", "qwen2")
TEXT = ("bert", "roberta", "distilbert", *DECODERS)
EVERY_FAMILY = (*TEXT, "vit")


def info_of(kind: TaskKind, num_labels: int = 3) -> TaskInfo:
    """A task with made-up label names."""
    has_labels = kind in (TaskKind.CLASSIFICATION, TaskKind.IMAGE_CLASSIFICATION)
    names = [f"c{number}" for number in range(num_labels)] if has_labels else []
    return TaskInfo(kind=kind, num_labels=len(names), label_names=names, max_length=None if "image" in kind else 16)


def tiny_task_model(family: str, folder: Path, kind: TaskKind, *, seed: int = 0, **overrides: object) -> TaskModel:
    """A tiny model of `family`, saved to `folder` and loaded for a task."""
    save_tiny(family, folder, seed=seed, **overrides)
    return load_task_model(open_checkpoint(str(folder)), info_of(kind), seed=seed)


def make_plan(task_model: TaskModel, kind: TaskKind, ranks: Mapping[str, int] | int, *, name: str = "made") -> Plan:
    """A plan with these LoRA ranks (or one rank everywhere); values and prices but parameters are zero."""
    layout = describe_layers(task_model.model)
    layers = []
    for spec in layout.layers:
        size = ranks if isinstance(ranks, int) else ranks.get(spec.layer, 0)
        method = Method.LORA if size else Method.NONE
        params = trainable_params(method, size, in_features=spec.in_features, out_features=spec.out_features)
        layers.append(
            PlanLayer(
                layer=spec.layer,
                block=spec.block,
                role=spec.role,
                method=method,
                size=size,
                utility=0.5,
                value=0.0,
                params=params,
                flops=0.0,
                vram_bytes=0.0,
                latency_ms=0.0,
                why="by hand",
                in_features=spec.in_features,
                out_features=spec.out_features,
            )
        )
    info = describe_model(task_model, layout)
    plan = Plan(
        model=info,
        task=info_of(kind),
        budgets={BudgetName.TRAINABLE_PARAMS: Budget(limit=None, spent=sum(layer.params for layer in layers))},
        solver=Solver(status="optimal", value=0.0, bound=0.0, gap=0.0, uniform_value=0.0),
        chosen=Chosen(name=name, value=0.0),
        layers=layers,
        head=layout.head,
        head_params=info.head_parameters,
        metadata=PlanMetadata(
            gradient_norms={},
            fisher_traces={},
            command="by hand",
            versions={},
            seed=0,
            profile="none",
            profile_identity="none",
            optimization={},
        ),
    )
    assert inconsistencies(plan) == []
    return plan


def uneven_ranks(task_model: TaskModel) -> dict[str, int]:
    """Ranks 1, 2, 3 and none in turn: every kind of entry that a plan can hold."""
    return {spec.layer: number % 4 for number, spec in enumerate(describe_layers(task_model.model).layers) if number % 4}


def kind_of(family: str) -> TaskKind:
    """The task that a family is tested on."""
    if family == "vit":
        return TaskKind.IMAGE_CLASSIFICATION
    return TaskKind.CAUSAL_LM if family in DECODERS else TaskKind.CLASSIFICATION


def made_data(task_model: TaskModel, kind: TaskKind, num: int = 120, *, seed: int = 0) -> LoadedData:
    """Samples that a tiny model can learn: which of three words a text holds, or a text that repeats itself."""
    generator = np.random.default_rng(seed)
    info = info_of(kind)
    examples: list[Example] = []
    for _ in range(num):
        label = int(generator.integers(3))
        if kind is TaskKind.IMAGE_CLASSIFICATION:
            pixels = generator.normal(size=(3, 16, 16)) + label
            examples.append({"pixel_values": pixels.astype(np.float32), "labels": label})
            continue
        words = generator.integers(20, 40, size=int(generator.integers(2, 5))).tolist()
        if kind is TaskKind.CAUSAL_LM:
            tokens = [words[position % 2] for position in range(2 * len(words))]
            examples.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": tokens})
            continue
        words[int(generator.integers(len(words)))] = 10 + label
        tokens = [2, *words, 3]
        examples.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": label})
    processor = load_processor(task_model.checkpoint, kind)
    return LoadedData(id="made", task=build_task(info, processor), examples=examples, splits=None, columns={})
