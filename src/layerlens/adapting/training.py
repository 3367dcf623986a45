"""The small training loop that the race uses: a fixed list of batches, AdamW, warm-up and decay, clipping."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from layerlens.adapting.boundary_start import BoundaryStart
from layerlens.adapting.boundary_store import BoundaryShelf
from layerlens.adapting.dropout import rest_
from layerlens.adapting.optimizer import build_optimizer, build_schedule
from layerlens.adapting.precision import attention, autocast, kept_generators
from layerlens.config import TrainingConfig
from layerlens.data.example import Example
from layerlens.data.inference import as_float32, to_device
from layerlens.data.task import Task
from layerlens.data.training_batches import training_batch
from layerlens.errors import NotFiniteError


def train(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    config: TrainingConfig,
    *,
    seed: int,
    new_parameters: Collection[str] = (),
    shelf: BoundaryShelf | None = None,
    folder: Path | None = None,
) -> list[float]:
    """Train the trainable parameters of `model` in place, one step per batch.

    Below the lowest trained block there is no gradient and no dropout, and what was computed once is not computed again.

    Args:
        model: On its device; its modules' modes are left as training set them.
        task: Collates and gives the loss; a step's loss is the mean over its samples.
        examples: What `batches` index.
        batches: Sample numbers of each step; the schedule's horizon is their count.
        config: Learning rate, warm-up, decay, clipping, precision.
        seed: Of the model's own dropout, where that is on. The global generators are left as they were.
        new_parameters: Names of the head's parameters that are not pretrained.
        shelf: Hidden states above the frozen blocks, shared with runs whose batches were drawn from the same seed.
        folder: Where a file of them may lie; without one they are kept in memory or not at all.

    Returns:
        The training loss of each step, nats.

    Raises:
        NotFiniteError: a loss became NaN or infinite; the model is then useless.
    """
    device = next(model.parameters()).device
    optimizer = build_optimizer(model, config, new_parameters=new_parameters)
    schedule = build_schedule(optimizer, num_steps=len(batches), warmup_ratio=config.warmup_ratio)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = []
    model.train()
    if not config.dropout:
        rest_(model)
    start = BoundaryStart(model, task, examples, batches, config, shelf=shelf, folder=folder, seed=seed)
    with kept_generators(device), start:
        torch.manual_seed(seed)
        for step, indices in enumerate(batches):
            batch = to_device(training_batch(task, [examples[index] for index in indices]), device)
            made = attention(config, device, model, batch)
            with autocast(config.precision, device), start.step(indices, batch), made:
                outputs = model(**task.model_inputs(batch))
            loss = task.per_sample_loss(as_float32(outputs), batch).mean()
            # Else the outputs, a language model's logits, stand beside their gradients.
            del outputs
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NotFiniteError(diverged(step + 1, losses[-1], config.learning_rate))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    return losses


def diverged(step: int, loss: float, learning_rate: float) -> str:
    """What to say when training has diverged."""
    return (
        f"training diverged: the loss is {loss} at step {step} with learning rate {learning_rate:g}; use a lower --learning-rate"
    )
