"""The streamed pass, one step at a time: a block forward over all samples, the loss, a block backward over all samples.

    forward   hidden of boundary b ──► block b ──► hidden of boundary b + 1
    loss      hidden of the last boundary ──► final norm, head, loss ──► gradient by that hidden state
    backward  hidden of boundary b, recomputed through block b; gradient of b + 1 ──► statistics of b's layers, gradient of b

The forward step is that of `StreamedSteps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.errors import NotFiniteError
from layerlens.models.streamed.load import StreamedModel
from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.capture import Capture
from layerlens.profiling.loss_terms import loss_terms
from layerlens.profiling.spaces import expected_tokens
from layerlens.profiling.statistics import Statistics
from layerlens.profiling.statistics_pass import check_norms, label_seed
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.placement import Placement
from layerlens.streaming.samples import Part, Samples
from layerlens.streaming.steps import StreamedSteps
from layerlens.words import TaskKind


@dataclass(frozen=True)
class Losses:
    """What the loss step leaves: loss of each sample in nats in calibration order, and the mean number of its terms."""

    values: Float[np.ndarray, " samples"]
    num_terms: float


class StreamedPass(StreamedSteps):
    """Steps of the pass over one set of samples.

    Args:
        model: The streamed model, its head fitted.
        samples: Batches in parts.
        store: Hidden states and gradients.
        holds_weights: Keep the weights of the block at hand in memory; otherwise they are read in slices for every part.
        loss_tokens: Padded tokens that run through the head together; None for as many as through a block.
        after_part: Called after every part of every step; may raise to stop.
        sample_names: Position of each sample in the data set, for messages.
        placement: Where blocks are computed, and the statistics kept; None for the processor.
    """

    def __init__(
        self,
        model: StreamedModel,
        samples: Samples,
        store: ActivationStore,
        *,
        holds_weights: bool = True,
        loss_tokens: int | None = None,
        after_part: Callable[[], None] = lambda: None,
        sample_names: Sequence[int] = (),
        placement: Placement | None = None,
    ) -> None:
        super().__init__(
            model,
            samples,
            store,
            holds_weights=holds_weights,
            loss_tokens=loss_tokens,
            after_part=after_part,
            placement=placement,
        )
        self._names = sample_names

    def loss(
        self, source: int, targets: Mapping[str, int], num_samples: int, batches: Sequence[CalibrationBatch], seed: int
    ) -> Losses:
        """Run what comes after the blocks, and the gradient of every sample's loss by the last hidden state.

        Args:
            source: Slot of the last boundary.
            targets: By labels, slot of the gradient.
            num_samples: Calibration samples.
            batches: The calibration batches.
            seed: Of sampled labels.

        Raises:
            NotFiniteError: a loss is NaN or infinite.
        """
        task, skeleton = self._samples.task, self._model.skeleton
        generator = torch.Generator()
        losses, num_terms = np.zeros(num_samples), 0.0
        # A language model's labels are drawn token by token, so a batch may be cut; other tasks draw for a whole batch at once.
        is_whole = "true" in targets and task.info.kind is not TaskKind.CAUSAL_LM
        with self._step(), self._held(None):
            for part, take in self._parts([source], 1 << 60 if is_whole else self._loss_tokens):
                hidden = take(source).requires_grad_()
                if part.samples.start == 0:
                    generator.manual_seed(label_seed(batches[part.batch], seed))
                with torch.enable_grad():
                    output = skeleton.finish(part.inputs, hidden)
                    per_sample = task.per_sample_loss(output, part.values)
                values = per_sample.detach()
                positions = list(batches[part.batch].samples[part.samples])
                if not bool(torch.isfinite(values).all()):
                    bad = positions[int((~torch.isfinite(values)).nonzero()[0])]
                    raise NotFiniteError(self._not_finite_loss(bad, float(values[positions.index(bad)]), part, hidden))
                for labels, target in targets.items():
                    if labels == "true":
                        with torch.enable_grad():
                            drawn = task.sample_labels(output, part.values, generator)
                            total = task.per_sample_loss(output, drawn).sum()
                    else:
                        total = per_sample.sum()
                    hidden.grad = None
                    total.backward(retain_graph=labels != list(targets)[-1])
                    gradient = torch.zeros_like(hidden) if hidden.grad is None else hidden.grad
                    self._placement.write(self._store, target, part, gradient)
                losses[positions] = values.double().cpu().numpy()
                num_terms += float(loss_terms(task.info.kind, part.values).sum())
                del output, per_sample, total, hidden, gradient
                self._after_part()
        return Losses(losses, num_terms / num_samples)

    def _not_finite_loss(self, sample: int, loss: float, part: Part, hidden: Tensor) -> str:
        """Say where a loss that is not finite arises; what the last block gave is finite."""
        name = self._names[sample] if len(self._names) else sample
        return (
            f"the loss of sample {name} is {loss}, arising after the last block, {self._origin_after_blocks(part, hidden)}; "
            "check its text and label, and the head's weights"
        )

    def backward(
        self,
        block: int,
        source: int | None,
        gradients: Mapping[str, int],
        targets: Mapping[str, int],
        layers: Sequence[LayerSpec],
        batches: Sequence[CalibrationBatch],
        losses: Losses,
    ) -> Statistics:
        """Recompute a block over all samples and take the statistics of some of its layers.

        Args:
            block: Position of the block.
            source: Slot of its input; None for the embeddings' output.
            gradients: By labels, slot of the gradient by its output.
            targets: By labels, slot for the gradient by its input; empty where it is not wanted.
            layers: Layers to measure.
            batches: The calibration batches.
            losses: From the loss step.

        Raises:
            NotFiniteError: a gradient is NaN or infinite; names the layer.
        """
        modules = self._model.layers_of(block)
        capture = Capture(modules, layers, device=self._placement.device, tokens=expected_tokens(batches))
        kinds = list(gradients)
        with self._step(), self._held(block), capture.hooked():
            for part, take in self._parts([source, *gradients.values()]):
                batch = batches[part.batch]
                capture.start_batch(batch, part.batch_mask, part.samples)
                hidden = self._hidden(part, take, source)
                if targets:
                    hidden.requires_grad_()
                with torch.enable_grad():
                    output = self._model.skeleton.call(block, hidden, self._samples.call(part, block))
                for labels in kinds:
                    is_last = labels == kinds[-1]
                    gradient = take(gradients[labels])
                    capture.start_backward(labels, fills_gram=is_last, is_last=is_last)
                    hidden.grad = None
                    output.backward(gradient, retain_graph=not is_last)
                    capture.end_backward()
                    if targets and hidden.grad is not None:
                        self._placement.write(self._store, targets[labels], part, hidden.grad)
                del output, hidden, gradient
                self._after_part()
        check_norms(capture.sums)
        return Statistics.of_batches(
            batches,
            layers=capture.sums,
            input_groups=capture.input_groups,
            losses=losses.values,
            num_terms=losses.num_terms,
        )
