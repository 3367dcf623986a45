"""Tiny models of every family with samples of different lengths, and per-sample gradients by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.layers import BlockSpec, LayerSpec, ModelLayout
from layerlens.artifacts.profile import TaskInfo
from layerlens.config import FisherLabels
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.roles import describe_layers
from layerlens.profiling.calibration import calibration_batches
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.spaces import Space
from layerlens.profiling.statistics import Statistics
from layerlens.profiling.statistics_pass import collect_statistics
from layerlens.words import Role, TaskKind
from tests.tiny_models import save_tiny

NUM_LABELS = 3


@dataclass
class Case:
    """A task model with its samples."""

    task_model: TaskModel
    layout: ModelLayout
    task: Task
    examples: list[Example]

    @property
    def model(self) -> nn.Module:
        return self.task_model.model

    def statistics(
        self,
        *,
        batch_size: int = 4,
        gram_tokens: int = 10_000,
        fisher_labels: FisherLabels = FisherLabels.EMPIRICAL,
        space: Space | None = None,
    ) -> Statistics:
        """Run the pass over all samples."""
        lengths = sample_lengths(self.model, self.layout.layers, self.task, self.examples)
        batches = calibration_batches(lengths, batch_size=batch_size, gram_tokens=gram_tokens, seed=0)
        return collect_statistics(
            self.model, self.layout.layers, self.task, self.examples, batches, fisher_labels=fisher_labels, space=space
        )


def open_case(folder: Path, family: str, kind: TaskKind, *, num_samples: int = 7) -> Case:
    """Build and load a tiny model, and draw random samples of 3 to 11 tokens (or images)."""
    num_labels = {TaskKind.REGRESSION: 1, TaskKind.QUESTION_ANSWERING: 0, TaskKind.CAUSAL_LM: 0}.get(kind, NUM_LABELS)
    info = TaskInfo(kind=kind, num_labels=num_labels, label_names=[str(label) for label in range(num_labels)])
    checkpoint = open_checkpoint(str(save_tiny(family, folder / family)))
    task_model = load_task_model(checkpoint, info, seed=0)
    task = build_task(info, load_processor(checkpoint, kind))
    examples = [_example(kind, np.random.default_rng([7, number])) for number in range(num_samples)]
    return Case(task_model, describe_layers(task_model.model), task, examples)


def _example(kind: TaskKind, random: np.random.Generator) -> Example:
    label: Any = int(random.integers(NUM_LABELS))
    if kind is TaskKind.IMAGE_CLASSIFICATION:
        return {"pixel_values": random.normal(size=(3, 16, 16)).astype(np.float32), "labels": label}
    length = int(random.integers(6, 14) if kind is TaskKind.QUESTION_ANSWERING else random.integers(3, 12))
    tokens = [int(token) for token in random.integers(10, 190, size=length)]
    example: Example = {"input_ids": tokens, "attention_mask": [1] * length}
    if kind is TaskKind.QUESTION_ANSWERING:
        return example | {"start_positions": 2, "end_positions": 3 + label}
    if kind is TaskKind.CAUSAL_LM:
        return example | {"labels": tokens}
    return example | {"labels": float(random.normal()) if kind is TaskKind.REGRESSION else label}


def per_sample_gradients(case: Case, task: Task | None = None) -> dict[str, Float[Tensor, "samples out_features in_features"]]:
    """Weight gradients of each sample's loss in float64, each sample alone in its batch, so without padding."""
    task = task or case.task
    model, specs = case.model, case.layout.layers
    weights = [model.get_submodule(spec.layer).weight for spec in specs]
    rows: list[list[Tensor]] = []
    for example in case.examples:
        batch = task.collate([example])
        loss = task.per_sample_loss(model(**task.model_inputs(batch)), batch).sum()
        rows.append(list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)))
    stacked = [torch.stack([row[position] for row in rows]).double() for position in range(len(specs))]
    return {spec.layer: value.mT if spec.is_transposed else value for spec, value in zip(specs, stacked, strict=True)}


class VectorTask(Task):
    """Samples are `[tokens, features]` arrays with a weight for each token; the loss is a cubic of the model's output."""

    primary_metric = "none"

    def __init__(self) -> None:
        super().__init__(TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=2))

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        longest = max(len(example["x"]) for example in examples)
        padded = torch.zeros(len(examples), longest, examples[0]["x"].shape[1])
        mask = torch.zeros(len(examples), longest)
        for row, example in enumerate(examples):
            padded[row, : len(example["x"])] = torch.as_tensor(example["x"])
            mask[row, : len(example["x"])] = 1.0
        return {"x": padded, "attention_mask": mask}

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        return (outputs.pow(3).flatten(2).sum(dim=2) * batch["attention_mask"]).sum(dim=1)

    def model_inputs(self, batch: Batch) -> Batch:
        return {"x": batch["x"]}

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        return batch

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        return []

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        return {}


class Vectors(nn.Module):
    """Two layers on every token."""

    def __init__(self, features: int = 5, hidden: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower = nn.Linear(features, hidden)
        self.upper = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.tanh(self.lower(x)))


def vector_examples(num: int, *, features: int = 5, length: int | None = None) -> list[Example]:
    """Random samples of `length` tokens, or of 2 to 6."""
    random = np.random.default_rng(3)
    lengths = [length or int(random.integers(2, 7)) for _ in range(num)]
    return [{"x": random.normal(size=(tokens, features)).astype(np.float32)} for tokens in lengths]


def layer_specs(model: nn.Module, block: int | None = 0) -> list[LayerSpec]:
    """A spec for every linear layer."""
    return [
        LayerSpec(
            layer=name,
            block=block,
            role=Role.OTHER,
            in_features=module.in_features,
            out_features=module.out_features,
            input_group=name,
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]


def block_spec(path: str, block: int = 0) -> BlockSpec:
    """A block without anything but its path."""
    return BlockSpec(block=block, path=path, hidden_size=1, kv_features=1, num_params=1)


def vector_statistics(
    model: nn.Module,
    examples: list[Example],
    *,
    batch_size: int = 4,
    gram_tokens: int = 10_000,
    space: Space | None = Space.FEATURES,
) -> Statistics:
    """Run the pass over vectors."""
    batches = calibration_batches(
        [len(example["x"]) for example in examples], batch_size=batch_size, gram_tokens=gram_tokens, seed=0
    )
    return collect_statistics(model, layer_specs(model), VectorTask(), examples, batches, space=space)
