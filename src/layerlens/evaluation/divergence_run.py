"""Two models on the same text or samples: what the second lost against the first.

    text       perplexity before and after, KL of every scored token, same top token, cosine of the logits
    samples    the task's metric before and after, KL of every prediction, same top class
    embedding  1 − cosine of the mean-pooled embeddings

The models take turns batch by batch, so no logits are kept; each may be on a device of its own and in a type of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerlens.artifacts.compression_evaluation import Change, Metric, Spread, TextQuality
from layerlens.data.batches import length_sorted_batches
from layerlens.data.compared import Compared, ComparedRows, Distances, distances, embedded_rows, predicted_rows
from layerlens.data.example import Batch, Example
from layerlens.data.inference import as_float32
from layerlens.data.metrics import perplexity
from layerlens.data.task import Task
from layerlens.errors import DataError, NotFiniteError, UnsupportedModelError
from layerlens.evaluation.perplexity import TokenWindows, to_device_of, token_losses
from layerlens.linalg.divergence import row_divergence
from layerlens.models.frozen import frozen
from layerlens.progress import SILENT, Progress


def compare_on_text(
    original: nn.Module,
    compressed: nn.Module,
    windows: TokenWindows,
    *,
    name: str,
    is_calibration: bool = False,
    batch_size: int = 4,
    progress: Progress = SILENT,
) -> TextQuality:
    """Compare two language models with one vocabulary on a text.

    Args:
        original: Taken as right.
        compressed: Compared with it.
        windows: The text.
        name: Of the text.
        is_calibration: Whether the second model was compressed on text of this kind.
        batch_size: Windows that run together.
        progress: Who watches.

    Raises:
        NotFiniteError: a loss or a divergence is NaN or infinite.
        UnsupportedModelError: the vocabularies differ.
    """
    found: list[Distances] = []
    losses = [0.0, 0.0]
    with frozen(original), frozen(compressed), torch.inference_mode():
        for batch in progress.track(list(windows.batches(batch_size)), f"comparing on {name}"):
            before, after = batch.logits(original), batch.logits(compressed)
            if before.shape != after.shape:
                raise UnsupportedModelError(
                    f"the models have vocabularies of {before.shape[1]} and {after.shape[1]} tokens, so their predictions cannot "
                    "be compared; give two models with one tokenizer"
                )
            after = after.to(before.device)
            for side, logits in enumerate((before, after)):
                losses[side] += float(token_losses(logits, batch.targets).sum())
            rows = row_divergence(before, after)
            found.append(Distances(rows.kl_nats.cpu(), rows.is_same_top.cpu(), rows.cosine.cpu()))
    count = sum(len(part.values) for part in found)
    return _quality(name, is_calibration, found, Compared.DISTRIBUTION).model_copy(
        update={
            "windows": windows.record,
            "perplexity": Change(before=perplexity(losses[0] / count), after=perplexity(losses[1] / count)),
        }
    )


def compare_on_samples(
    original: nn.Module,
    compressed: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    name: str,
    is_calibration: bool = False,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> TextQuality:
    """Compare two models of one task on samples.

    Args:
        original: Taken as right; its head trained.
        compressed: Compared with it.
        task: The task of both.
        examples: Encoded samples.
        name: Of the data.
        is_calibration: As `compare_on_text` takes it.
        batch_size: Samples that run together.
        progress: Who watches.

    Raises:
        DataError: no samples.
        NotFiniteError: a divergence is NaN or infinite.
    """
    predictions: tuple[list[Any], list[Any]] = ([None] * len(examples), [None] * len(examples))
    found: list[Distances] = []
    kind = Compared.DISTRIBUTION
    groups = length_sorted_batches(examples, batch_size)
    with frozen(original), frozen(compressed), torch.inference_mode():
        for indices in progress.track(groups, f"comparing on {name}"):
            batch = task.collate([examples[index] for index in indices])
            rows: list[ComparedRows] = []
            for model, predicted in zip((original, compressed), predictions, strict=True):
                outputs = _on_processor(as_float32(model(**to_device_of(model, task.model_inputs(batch)))))
                rows.append(predicted_rows(task, outputs, batch))
                for index, prediction in zip(indices, task.predictions(outputs, batch), strict=True):
                    predicted[index] = prediction
            kind = rows[0].kind
            found.append(distances(*rows))
    quality = _quality(name, is_calibration, found, kind)
    before, after = (task.score(predicted, examples)[task.primary_metric] for predicted in predictions)
    return quality.model_copy(update={"metric": Metric(name=task.primary_metric, before=before, after=after)})


def compare_embeddings(
    original: nn.Module,
    compressed: nn.Module,
    batches: Iterable[Batch],
    *,
    name: str,
    is_calibration: bool = False,
    progress: Progress = SILENT,
) -> TextQuality:
    """Compare the mean-pooled embeddings of two models; a head that they may have does not run.

    Args:
        original: Taken as right.
        compressed: Compared with it.
        batches: Inputs of the base model, without labels; `attention_mask` says what is no padding.
        name: Of the data.
        is_calibration: As `compare_on_text` takes it.
        progress: Who watches.

    Raises:
        DataError: no samples.
        NotFiniteError: an embedding is NaN or infinite.
    """
    found: list[Distances] = []
    with frozen(original), frozen(compressed), torch.inference_mode():
        for batch in progress.track(batches, f"comparing on {name}"):
            mask = batch.get("attention_mask")
            rows = []
            for model in (original, compressed):
                base: Any = getattr(model, "base_model", model)
                hidden: Tensor = base(**to_device_of(model, batch)).last_hidden_state
                rows.append(embedded_rows(hidden.cpu(), None if mask is None else mask.bool()))
            found.append(distances(*rows))
    return _quality(name, is_calibration, found, Compared.EMBEDDING)


def spread(values: np.ndarray) -> Spread:
    """Mean, median, 99 % and maximum."""
    median, p99 = np.quantile(values, [0.5, 0.99])
    return Spread(mean=float(values.mean()), median=float(median), p99=float(p99), max=float(values.max()))


def _quality(name: str, is_calibration: bool, found: Sequence[Distances], kind: Compared) -> TextQuality:
    if not sum(len(part.values) for part in found):
        raise DataError(f"{name} has no predictions to compare; give more data")
    values = torch.cat([part.values for part in found]).numpy()
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{int((~np.isfinite(values)).sum())} of {len(values)} predictions on {name} are NaN or infinite")
    tops = [part.is_same_top for part in found if part.is_same_top is not None]
    cosines = [part.cosine for part in found if part.cosine is not None]
    is_embedding = kind is Compared.EMBEDDING
    return TextQuality(
        name=name,
        is_calibration=is_calibration,
        num_positions=len(values),
        kl=None if is_embedding else spread(values),
        same_top_token=float(torch.cat(tops).double().mean()) if tops else None,
        logits_cosine=float(torch.cat(cosines).mean()) if cosines else None,
        embedding_distance=spread(values) if is_embedding else None,
    )


def _on_processor(outputs: Any) -> Any:
    for name, value in list(outputs.items()):
        if isinstance(value, Tensor):
            outputs[name] = value.cpu()
    return outputs
