"""The pass: one forward and one backward per sample gives every statistic of every layer.

At sampled labels (`fisher_labels: true`) a second backward goes through the same graph: the Fisher trace and B are then those
of the model's own predictive distribution, while the debiasing of the gradient energy still needs the norms at the data's labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.artifacts.layers import LayerSpec
from layerlens.config import FisherLabels
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import NotFiniteError
from layerlens.models.block_autocast import blocks_in_bf16
from layerlens.models.first_not_finite import first_not_finite
from layerlens.models.frozen import frozen
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.capture import Capture
from layerlens.profiling.layer_statistics import LayerStatistics
from layerlens.profiling.loss_terms import loss_terms
from layerlens.profiling.processes import ALONE, Processes
from layerlens.profiling.spaces import Space, expected_tokens
from layerlens.profiling.statistics import Statistics
from layerlens.progress import SILENT, Progress


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
    space: Space | None = None,
    bf16_blocks: Sequence[nn.Module] = (),
    processes: Processes = ALONE,
    after_batch: Callable[[], None] = lambda: None,
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
        space: Where every layer's statistics are kept; None for the cheaper space, layer by layer.
        bf16_blocks: Blocks of the model whose products are rounded to bfloat16; the others' are in float32.
        processes: Processes that share the batches; the result is of this one's, and `processes.merge` adds the others'.
        after_batch: Called after every batch; may raise to stop.
        progress: Told of every batch.

    Raises:
        NotFiniteError: A loss or gradient is NaN or infinite; names the sample, or the layer where it arises.
        UnsupportedModelError: A layer's statistics cannot be told apart by sample.
    """
    capture = Capture(
        {spec.layer: model.get_submodule(spec.layer) for spec in layers},
        layers,
        device=next(model.parameters()).device,
        tokens=expected_tokens(batches),
        # What other processes found is added up, which rows of tokens are not made for.
        space=space if processes.count == 1 else Space.FEATURES,
    )
    generator = torch.Generator()
    losses = np.zeros(len(examples))
    num_terms = 0.0
    is_true = fisher_labels is FisherLabels.TRUE
    names = sample_names if sample_names is not None else range(len(examples))
    not_finite: tuple[CalibrationBatch, Batch, Tensor] | None = None
    device = next(model.parameters()).device
    with frozen(model), blocks_in_bf16(bf16_blocks, device), capture.hooked():
        own = processes.share(batches)
        capture.skip(sum(len(batch.samples) for batch in batches[: own.start]))
        for position in progress.track(own, "statistics", total=len(own)):
            batch = batches[position]
            generator.manual_seed(label_seed(batch, seed))
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
            after_batch()
    if not_finite is not None:
        with blocks_in_bf16(bf16_blocks, device):
            raise _not_finite_loss(model, task, *not_finite, names)
    check_norms(capture.sums)
    return Statistics.of_batches(
        batches,
        layers=capture.sums,
        input_groups=capture.input_groups,
        losses=losses,
        num_terms=num_terms / max(1, len(examples)),
    )


def label_seed(batch: CalibrationBatch, seed: int) -> int:
    """Seed of the labels that are sampled for a batch: its own, so that it matters neither what ran before nor where."""
    return (batch.seed << 16) + seed


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


def check_norms(layers: dict[str, LayerStatistics]) -> None:
    """Refuse statistics that are not finite.

    Raises:
        NotFiniteError: Names the layer where it arises.
    """
    # Backward runs from the last layer to the first: the last one that is not finite is where it arises.
    for name, sums in reversed(layers.items()):
        if not all(bool(torch.isfinite(part).all()) for parts in sums.norms.values() for part in parts):
            raise NotFiniteError(f"the gradient of layer {name} is not finite; check its weights, or profile fewer samples")
