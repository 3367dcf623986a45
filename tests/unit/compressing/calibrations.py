"""Tiny streamed models with many samples, and a whole calibration pass over them, to compare with the plain model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.artifacts.profile import TaskInfo
from layerlens.compressing.calibration_pass import CalibrationPass
from layerlens.compressing.calibration_samples import CalibrationSamples
from layerlens.compressing.matrices import Matrix, Place, matrices_of
from layerlens.compressing.sensitivity import (
    Sensitivity,
    idle_sensitivity,
    layer_sensitivity,
    output_sensitivity,
    table_sensitivity,
    tied_sensitivity,
)
from layerlens.data.compared import distances, predicted_rows
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.streamed.load import StreamedModel, load_streamed_model
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.boundaries import most_slots
from layerlens.streaming.slots import Slots
from layerlens.words import TaskKind
from tests.tiny_models import save_tiny

DECODERS = {"gpt2", "gpt_neo", "llama", "mistral", "qwen2", "ctrl", "gemma2"}


@dataclass
class Calibrated:
    """A tiny model and its samples."""

    checkpoint: Checkpoint
    data: LoadedData
    seed: int = 0

    def streamed(self) -> StreamedModel:
        return load_streamed_model(self.checkpoint, self.data.task.info, seed=1)

    def in_memory(self) -> nn.Module:
        # Loaded in float32, in which a new head is drawn as the streamed model has it.
        return load_task_model(self.checkpoint, self.data.task.info, seed=1).model.double()

    @property
    def samples(self) -> list[int]:
        return list(range(len(self.data.examples)))

    def divergence(self, model: nn.Module, changed: dict[str, Tensor]) -> float:
        """Mean divergence of every prediction in nats when these parameters of the model in memory are others."""
        task, parameters = self.data.task, dict(model.named_parameters(remove_duplicate=False))
        batches = [task.collate(self.data.examples[start : start + 8]) for start in range(0, len(self.data.examples), 8)]
        batches = [{name: _doubled(value) for name, value in batch.items()} for batch in batches]

        def rows() -> list[Any]:
            with torch.no_grad():
                return [predicted_rows(task, _Doubles(model(**task.model_inputs(batch))), batch) for batch in batches]

        before = rows()
        kept = {name: parameters[name].data for name in changed}
        for name, values in changed.items():
            parameters[name].data = values.to(torch.float64)
        after = rows()
        for name, values in kept.items():
            parameters[name].data = values
        return float(torch.cat([distances(one, other).values for one, other in zip(before, after, strict=True)]).mean())


class _Doubles:
    """Outputs whose logits say that they are float32 when they are cast: a comparison in double all the way."""

    def __init__(self, outputs: Any) -> None:
        for name in ("logits", "start_logits", "end_logits", "last_hidden_state"):
            if getattr(outputs, name, None) is not None:
                setattr(self, name, getattr(outputs, name).as_subclass(_Double))


class _Double(Tensor):
    def float(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


def _doubled(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def calibrated(
    folder: Path, family: str, kind: TaskKind | None = None, *, num_samples: int = 48, longest: int = 14, **overrides: Any
) -> Calibrated:
    """A tiny model with random samples of 4 to `longest` tokens, or images."""
    if kind is None:
        kind = TaskKind.CAUSAL_LM if family in DECODERS else TaskKind.CLASSIFICATION
        kind = TaskKind.IMAGE_CLASSIFICATION if family == "vit" else kind
    names = ["a", "b", "c"] if kind in {TaskKind.CLASSIFICATION, TaskKind.IMAGE_CLASSIFICATION} else []
    info = TaskInfo(kind=kind, num_labels=len(names) or 1, label_names=names)
    checkpoint = open_checkpoint(str(save_tiny(family, folder / family, **overrides)))
    random = np.random.default_rng(5)
    examples = [_example(family, kind, random, longest) for _ in range(num_samples)]
    task = build_task(info, load_processor(checkpoint, kind))
    return Calibrated(checkpoint, LoadedData(id="random", task=task, examples=examples, splits=None, columns={}))


def _example(family: str, kind: TaskKind, random: np.random.Generator, longest: int) -> Example:
    if family == "vit":
        return {"pixel_values": random.normal(size=(3, 16, 16)).astype(np.float32), "labels": 1}
    length = int(random.integers(4, longest + 1))
    tokens = random.integers(10, 190, size=length).tolist()
    example: Example = {"input_ids": tokens, "attention_mask": [1] * length}
    if kind is TaskKind.EMBEDDING:
        return example
    if kind is TaskKind.QUESTION_ANSWERING:
        return example | {"start_positions": 1, "end_positions": 2}
    return example | {"labels": tokens if kind is TaskKind.CAUSAL_LM else 0.5 if kind is TaskKind.REGRESSION else 1}


def sensitivities(
    case: Calibrated, work: Path, *, tokens_at_once: int = 1 << 20, loss_tokens: int = 1 << 20, holds_weights: bool = True
) -> dict[str, tuple[Matrix, Sensitivity]]:
    """Every matrix with what its errors cost, by a whole pass."""
    model = case.streamed()
    calibration = CalibrationSamples(model, case.data, case.samples, batch_size=8, seed=case.seed)
    parts = calibration.in_parts(tokens_at_once)
    last = len(model.layout.blocks)
    slots = Slots(last, most_slots(last), ["true"])
    matrices = matrices_of(model)
    found: dict[str, tuple[Matrix, Sensitivity]] = {}
    with ActivationStore(work / "activations.bin", parts.shapes, slots.num_slots) as store:
        passing = CalibrationPass(model, calibration, parts, store, holds_weights=holds_weights, loss_tokens=loss_tokens)
        for block in range(last):
            target = slots.upward(block + 1)
            assert target is not None
            passing.forward(block, slots.upward(block), target)
        top = slots.upward(last)
        assert top is not None
        heads = passing.loss(top, slots.gradient(last, "true"), [m for m in matrices if m.place in (Place.HEAD, Place.TIED)])
        for matrix in matrices:
            if matrix.layer in heads.outputs:
                found[matrix.layer] = matrix, output_sensitivity(heads.outputs[matrix.layer])
            elif matrix.layer in heads.layers:
                moments = heads.layers[matrix.layer]
                sensitivity = layer_sensitivity(moments, moments.inputs.held.root(1.0), heads.num_predictions)
                found[matrix.layer] = matrix, sensitivity
            elif matrix.place is Place.HEAD:
                found[matrix.layer] = matrix, idle_sensitivity(matrix.out_features, matrix.in_features)
        for block in reversed(range(last)):
            mine = [matrix for matrix in matrices if matrix.block == block]
            layers = [matrix.layer for matrix in mine]
            gradients = slots.gradient(block + 1, "true"), slots.gradient(block, "true")
            taken = passing.backward(block, slots.inside(block, block), *gradients, layers)
            for matrix in mine:
                moments = taken[matrix.layer]
                sensitivity = layer_sensitivity(moments, moments.inputs.held.root(1.0), heads.num_predictions)
                found[matrix.layer] = matrix, sensitivity
        for matrix in matrices:
            if matrix.place in (Place.TABLE, Place.TIED):
                table = table_sensitivity(passing.table(matrix, slots.gradient(0, "true")), heads.num_predictions)
                if matrix.place is Place.TIED:
                    table = tied_sensitivity(table, found[matrix.layer][1])
                found[matrix.layer] = matrix, table
        store.remove()
    return found
