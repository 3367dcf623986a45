"""Running a model over samples without gradients: the loss and the prediction of each, and the scores of all.

Samples of like length share a batch, so padding costs little; what comes back is in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerlens.data.batches import length_sorted_batches
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import DataError, NotFiniteError


@dataclass(frozen=True)
class Inferred:
    """What a model made of each sample: losses `[samples]` in nats, and predictions as the task has them."""

    losses: NDArray[np.float64]
    predictions: list[Any]


def infer(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    has_predictions: bool = True,
) -> Inferred:
    """Run `model` over `examples` in evaluation mode.

    Args:
        model: A task model, on any device; its training mode is restored.
        task: Collates, and reads losses and predictions from the outputs.
        examples: Encoded samples.
        batch_size: Samples per batch.
        autocast: Context of the forward pass; losses are taken in float32 all the same.
        has_predictions: Whether predictions are wanted; without, the list is empty.
    """
    device = next(model.parameters()).device
    losses = np.zeros(len(examples))
    predictions: list[Any] = [None] * len(examples) if has_predictions else []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for indices in length_sorted_batches(examples, batch_size):
                batch = to_device(task.collate([examples[index] for index in indices]), device)
                with autocast():
                    outputs = model(**task.model_inputs(batch))
                outputs = as_float32(outputs)
                losses[list(indices)] = task.per_sample_loss(outputs, batch).double().cpu().numpy()
                if has_predictions:
                    for index, prediction in zip(indices, task.predictions(outputs, batch), strict=True):
                        predictions[index] = prediction
    finally:
        model.train(was_training)
    return Inferred(losses, predictions)


def score(model: nn.Module, task: Task, examples: Sequence[Example], *, batch_size: int) -> dict[str, float]:
    """Score a model in float32, on the device it is on.

    Args:
        model: A task model.
        task: Its task.
        examples: Encoded samples.
        batch_size: Samples per batch.

    Returns:
        `loss` (mean over samples, nats) and the task's own metrics.

    Raises:
        DataError: no samples.
        NotFiniteError: a loss is NaN or infinite.
    """
    if not examples:
        raise DataError("no samples to evaluate on; give more data")
    inferred = infer(model, task, examples, batch_size=batch_size)
    bad = int((~np.isfinite(inferred.losses)).sum())
    if bad:
        raise NotFiniteError(f"the loss of {bad} of {len(examples)} evaluation samples is not finite; the model is damaged")
    return {"loss": float(inferred.losses.mean()), **task.score(inferred.predictions, examples)}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def as_float32(outputs: Any) -> Any:
    """Turn the low-precision tensors of a model's output into float32, so that losses are accumulated in it."""
    for name, value in list(outputs.items()):
        if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16):
            outputs[name] = value.float()
    return outputs
