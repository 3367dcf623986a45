"""Measuring models side by side on the same samples: each becomes an arm of `evaluation.json`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layerlens.artifacts.evaluation import Arm, Evaluation
from layerlens.data.dataset import LoadedData
from layerlens.errors import ConfigError
from layerlens.evaluation.score import score
from layerlens.progress import SILENT, Progress


def evaluate_model(
    model: nn.Module,
    data: LoadedData,
    indices: Sequence[int],
    *,
    name: str,
    batch_size: int,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Arm:
    """Score a model that is not trained here: a plain one, or one with a loaded adapter on.

    Args:
        model: On the device it shall run on.
        data: Samples of its task.
        indices: Which of them to score on.
        name: Of the arm.
        batch_size: Samples per batch.
        seed: That the samples were split by.
        progress: Who watches.
    """
    examples = data.take(indices)
    metrics = score(model, data.task, examples, batch_size=batch_size)
    progress.note(f"{name}: {data.task.primary_metric} {metrics[data.task.primary_metric]:.4f}, loss {metrics['loss']:.4f} nats")
    return Arm(name=name, metrics=metrics, trainable_params=0, train_seconds=0.0, peak_memory_bytes=0, seed=seed)


def make_evaluation(
    arms: Sequence[Arm],
    data: LoadedData,
    *,
    model: str,
    eval_samples: int,
    command: str,
    versions: dict[str, str],
    machine: str = "",
) -> Evaluation:
    """Put arms side by side.

    Raises:
        ConfigError: no arms.
    """
    if not arms:
        raise ConfigError("nothing was evaluated; name at least one model or arm")
    return Evaluation(
        model=model,
        task=data.task.info.kind.value,
        eval_samples=eval_samples,
        primary_metric=data.task.primary_metric,
        arms=list(arms),
        command=command,
        versions=versions,
        machine=machine,
    )
