"""The pass: one forward and one backward per sample gives every statistic of every layer.

At sampled labels (`fisher_labels: true`) a second backward goes through the same graph: the Fisher trace and B are then those
of the model's own predictive distribution, while the debiasing of the gradient energy still needs the norms at the data's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.config import FisherLabels
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import NotFiniteError
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.capture import Capture, frozen
from layerlens.profiling.first_not_finite import first_not_finite
from layerlens.profiling.layer_sums import LayerSums
from layerlens.profiling.loss_terms import loss_terms
from layerlens.progress import SILENT, Progress


@dataclass
class Statistics:
    """What the pass leaves.

    Attributes:
        layers: Sums of each layer.
        input_groups: By layer, the first layer that was seen to read the same input.
        losses: Loss of each sample in nats, in calibration order.
        half_sizes: Samples of the two halves.
        num_terms: Mean number of log-likelihoods that a sample's loss is the mean of.
        positions: Calibration position of each sample in the order of the pass (the order of the norms).
    """

    layers: dict[str, LayerSums]
    input_groups: dict[str, str]
    losses: Float[np.ndarray, " samples"]
    half_sizes: tuple[int, int]
    num_terms: float
    positions: list[int]

    def mean_gradients(
        self, layer: str
    ) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, "out_features in_features"]]:
        """Mean per-sample gradient of each half."""
        sums = self.layers[layer]
        return sums.first / max(1, self.half_sizes[0]), sums.second / max(1, self.half_sizes[1])

    def norms(self, layer: str, labels: str) -> Float[np.ndarray, " samples"]:
        """Squared norm of each sample's gradient in float64, in calibration order; empty if not measured."""
        parts = self.layers[layer].norms[labels]
        if not parts:
            return np.zeros(0)
        ordered = np.zeros(len(self.positions))
        ordered[self.positions] = torch.cat(parts).double().cpu().numpy()
        return ordered


def collect_statistics(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    task: Task,
    examples: Sequence[Example],
    batches: Sequence[CalibrationBatch],
    *,
    fisher_labels: FisherLabels = FisherLabels.EMPIRICAL,
    seed: int = 0,
    sample_names: Sequence[int] | None = None,
    progress: Progress = SILENT,
) -> Statistics:
    """Run the pass over the calibration samples.

    Args:
        model: Task model; weights and mode are left as they were.
        layers: Planned layers.
        task: Loss and labels.
        examples: Calibration samples.
        batches: From `calibration_batches` over these samples.
        fisher_labels: Labels of the Fisher trace and of B.
        seed: Seed of sampled labels.
        sample_names: Position of each sample in the data set, for messages.
        progress: Told of every batch.

    Raises:
        NotFiniteError: A loss or gradient is NaN or infinite; names the sample, or the layer where it arises.
        UnsupportedModelError: A layer's statistics cannot be told apart by sample.
    """
    capture = Capture(model, layers)
    generator = torch.Generator().manual_seed(seed)
    losses = np.zeros(len(examples))
    num_terms = 0.0
    is_true = fisher_labels is FisherLabels.TRUE
    names = sample_names if sample_names is not None else range(len(examples))
    not_finite: tuple[CalibrationBatch, Batch, Tensor] | None = None
    with frozen(model), capture.hooked():
        for batch in progress.track(batches, "statistics", total=len(batches)):
            values = to_device_of(model, task.collate([examples[sample] for sample in batch.samples]))
            inputs = task.model_inputs(values)
            capture.start_batch(batch, task.token_mask(values))
            with torch.enable_grad():
                outputs = model(**inputs)
                per_sample = task.per_sample_loss(outputs, values)
            if not bool(torch.isfinite(per_sample.detach()).all()):
                not_finite = (batch, values, per_sample.detach())
                break
            capture.start_backward("empirical", fills_gram=not is_true, is_last=not is_true)
            per_sample.sum().backward(retain_graph=is_true)
            capture.end_backward()
            if is_true:
                with torch.enable_grad():
                    sampled = task.per_sample_loss(outputs, task.sample_labels(outputs, values, generator))
                capture.start_backward("true", fills_gram=True, is_last=True)
                sampled.sum().backward()
                capture.end_backward()
            losses[list(batch.samples)] = per_sample.detach().double().cpu().numpy()
            num_terms += loss_terms(task.info.kind, values).sum().item()
    if not_finite is not None:
        raise _not_finite_loss(model, task, *not_finite, names)
    _check_norms(capture.sums)
    return Statistics(
        layers=capture.sums,
        input_groups=capture.input_groups,
        losses=losses,
        half_sizes=(sum(b.num_first for b in batches), sum(len(b.samples) - b.num_first for b in batches)),
        num_terms=num_terms / max(1, len(examples)),
        positions=[sample for batch in batches for sample in batch.samples],
    )


def _not_finite_loss(
    model: nn.Module,
    task: Task,
    batch: CalibrationBatch,
    values: Batch,
    losses: Float[Tensor, " samples"],
    names: Sequence[int],
) -> NotFiniteError:
    position = int((~torch.isfinite(losses)).nonzero()[0].item())
    origin = first_not_finite(model, task.model_inputs(values))
    where = f"first at {origin}" if origin else "in the loss itself"
    return NotFiniteError(
        f"the loss of sample {names[batch.samples[position]]} is {losses[position].item()}, arising {where}; "
        "check that sample and the model's weights"
    )


def _check_norms(layers: dict[str, LayerSums]) -> None:
    # Backward runs from the last layer to the first: the last one that is not finite is where it arises.
    for name, sums in reversed(layers.items()):
        if not all(bool(torch.isfinite(part).all()) for parts in sums.norms.values() for part in parts):
            raise NotFiniteError(f"the gradient of layer {name} is not finite; check its weights, or profile fewer samples")
