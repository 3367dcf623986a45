"""Tiny streamed models with their samples, and the same models in memory, for tests that compare the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.streamed.load import StreamedModel, load_streamed_model
from layerlens.models.weights import is_planned_module, weight_matrix
from layerlens.streaming.samples import Samples
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny

DECODERS = {"gpt2", "gpt_neo", "llama", "mistral", "qwen2"}
#: Three blocks, so that there is one between the first and the last.
DEEPER: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 3},
    "gpt2": {"n_layer": 3},
    "gpt_neo": {"num_layers": 3, "attention_types": [[["global", "local", "global"], 1]]},
    "llama": {"num_hidden_layers": 3},
    "vit": {"num_hidden_layers": 3},
}


@dataclass
class Case:
    """A model with samples of different lengths in two batches."""

    checkpoint: Checkpoint
    info: TaskInfo
    task: Task
    examples: list[Example]
    groups: list[list[int]]

    def streamed(self) -> StreamedModel:
        return load_streamed_model(self.checkpoint, self.info, seed=1)

    def in_memory(self) -> nn.Module:
        return load_task_model(self.checkpoint, self.info, seed=1).model

    def samples(self, model: StreamedModel, tokens_at_once: int = 20) -> Samples:
        return Samples.of_examples(model.skeleton, self.task, self.examples, self.groups, tokens_at_once)

    def order(self) -> list[int]:
        """Samples in the order that results come in."""
        return [sample for group in self.groups for sample in group]


def case(folder: Path, family: str, kind: TaskKind | None = None, **overrides: Any) -> Case:
    if kind is None:
        kind = TaskKind.CAUSAL_LM if family in DECODERS else TaskKind.CLASSIFICATION
        kind = TaskKind.IMAGE_CLASSIFICATION if family == "vit" else kind
    names = ["a", "b", "c"] if kind in {TaskKind.CLASSIFICATION, TaskKind.IMAGE_CLASSIFICATION} else []
    info = TaskInfo(kind=kind, num_labels=len(names) or 1, label_names=names)
    checkpoint = open_checkpoint(str(save_tiny(family, folder / family, **{**DEEPER.get(family, {}), **overrides})))
    random = np.random.default_rng(5)
    examples: list[Example] = []
    for length in (11, 9, 7, 5, 4):
        if family == "vit":
            examples.append({"pixel_values": random.normal(size=(3, 16, 16)).astype(np.float32), "labels": 1})
            continue
        tokens = random.integers(10, 190, size=length).tolist()
        examples.append({"input_ids": tokens, "attention_mask": [1] * length, "labels": tokens if family in DECODERS else 1})
        if kind is TaskKind.QUESTION_ANSWERING:
            del examples[-1]["labels"]
            examples[-1] |= {"start_positions": 1, "end_positions": 2}
    return Case(checkpoint, info, build_task(info, load_processor(checkpoint, kind)), examples, [[3, 0, 1], [2, 4]])


def path_in(model: nn.Module, end: str) -> str:
    """The one module whose path ends so."""
    found = [path for path, _ in model.named_modules() if path.endswith(end)]
    assert len(found) == 1, found
    return found[0]


def noisy(model: nn.Module, paths: list[str], size: float = 0.5) -> dict[str, Tensor]:
    """Matrices of a model in memory, [out in], each with noise of its own."""
    result = {}
    for number, path in enumerate(paths):
        module = model.get_submodule(path)
        matrix = weight_matrix(module) if is_planned_module(module) else module.weight
        matrix = matrix.detach()
        noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(number + 17))
        result[path] = (matrix + size * noise * matrix.std()).contiguous()
    return result


@contextmanager
def overwritten(model: nn.Module, matrices: Mapping[str, Tensor]) -> Iterator[None]:
    """Write matrices into a model in memory, and its own again afterwards; modules that are tied are untied for the while."""
    kept: dict[str, nn.Parameter] = {}
    for path, values in matrices.items():
        module = model.get_submodule(path)
        assert isinstance(module.weight, nn.Parameter)
        kept[path] = module.weight
        turned = values if not is_planned_module(module) or weight_matrix(module) is module.weight else values.T
        module.weight = nn.Parameter(turned.clone(), requires_grad=False)
    yield
    for path, parameter in kept.items():
        model.get_submodule(path).weight = parameter
