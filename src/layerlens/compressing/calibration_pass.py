"""The calibration pass of a model that stays on disk, one step at a time.

    forward   hidden of boundary b ──► block b ──► hidden of boundary b + 1
    loss      hidden of the last boundary ──► head ──► gradient by that hidden state; moments of the heads
    backward  hidden of boundary b, recomputed through block b; gradient of b + 1 ──► moments of b's layers, gradient of b
    table     embeddings again; gradient of boundary 0 ──► moments of the word embedding

Gradients are those of the sum of every sample's negative log-likelihoods, at labels drawn from the model's own distribution with
seeds of their own: the true Fisher, whatever the data's labels are. The forward step is that of `StreamedSteps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.compressing.calibration_samples import CalibrationSamples, Tokens, num_predictions
from layerlens.compressing.layer_moments import LayerMoments
from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.moment_capture import MomentCapture
from layerlens.compressing.outside_moments import OutputCapture, OutputMoments, TableMoments
from layerlens.errors import NotFiniteError, UnsupportedModelError
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.models.sequences import as_sequences
from layerlens.models.streamed.load import StreamedModel
from layerlens.nn.row_scale import PLAIN, row_scale
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.samples import Part, Samples
from layerlens.streaming.steps import StreamedSteps
from layerlens.words import TaskKind


class CalibrationPass(StreamedSteps):
    """Steps of the pass over one set of samples.

    Args:
        model: The streamed model.
        calibration: The samples.
        parts: The same, cut into parts.
        store: Hidden states and gradients.
        holds_weights: Keep the weights of the block at hand in memory; otherwise they are read in slices for every part.
        loss_tokens: Padded tokens that run through the head together.
        after_part: Called after every part of every step; may raise to stop.
    """

    def __init__(
        self,
        model: StreamedModel,
        calibration: CalibrationSamples,
        parts: Samples,
        store: ActivationStore,
        *,
        holds_weights: bool = True,
        loss_tokens: int = 1 << 60,
        after_part: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(model, parts, store, holds_weights=holds_weights, loss_tokens=loss_tokens, after_part=after_part)
        self._calibration = calibration

    def loss(self, source: int, target: int, heads: Sequence[Matrix]) -> HeadMoments:
        """Run what comes after the blocks, and back to the last hidden state.

        Args:
            source: Slot of the last boundary.
            target: Slot of the gradient by it.
            heads: Matrices after the blocks, a tied table among them.

        Raises:
            NotFiniteError: a loss or gradient is NaN or infinite.
        """
        task = self._calibration.task
        kind, generator = task.info.kind, torch.Generator()
        found = HeadMoments(self._model, heads)
        with self._step(), found.hooked():
            # A language model's labels are drawn token by token, so a batch may be cut; others draw for a whole batch at once.
            for part, take in self._parts([source], self._loss_tokens if kind is TaskKind.CAUSAL_LM else 1 << 60):
                batch = self._calibration.batches[part.batch]
                if part.samples.start == 0:
                    generator.manual_seed(batch.seed)
                tokens = Tokens.of(part, batch)
                found.start(tokens)
                hidden = take(source).requires_grad_()
                with torch.enable_grad():
                    output = self._model.skeleton.finish(part.inputs, hidden)
                    drawn = task.sample_labels(output, part.values, generator)
                    terms = num_predictions(kind, part.values)
                    losses = task.per_sample_loss(output, drawn) * terms
                    self._check_losses(losses.detach(), batch.samples[part.samples], part, hidden)
                    losses.sum().backward()
                found.num_predictions += float(terms.sum())
                found.take(output, part, tokens)
                gradient = torch.zeros_like(hidden) if hidden.grad is None else hidden.grad
                self._placement.write(self._store, target, part, gradient)
                del output, losses, hidden, gradient
                self._after_part()
        return found

    def backward(
        self, block: int, source: int | None, gradient: int, target: int | None, layers: Sequence[str]
    ) -> dict[str, LayerMoments]:
        """Recompute a block over all samples and take the moments of some of its layers.

        Args:
            block: Position of the block.
            source: Slot of its input; None for the embeddings' output.
            gradient: Slot of the gradient by its output.
            target: Slot for the gradient by its input; None where it is not wanted.
            layers: Full paths of the layers.

        Returns:
            Moments by layer; none of a layer that no sample ran through, such as a decoder's attention to an encoder that it does
            not have.

        Raises:
            NotFiniteError: a gradient is NaN or infinite; names the layer.
            UnsupportedModelError: a layer runs more than once.
        """
        modules = self._model.layers_of(block)
        capture = MomentCapture({layer: modules[layer] for layer in layers})
        with self._step(), self._held(block), capture.hooked():
            for part, take in self._parts([source, gradient]):
                capture.start(Tokens.of(part, self._calibration.batches[part.batch]))
                hidden = self._hidden(part, take, source)
                if target is not None:
                    hidden.requires_grad_()
                with torch.enable_grad():
                    output = self._model.skeleton.call(block, hidden, self._samples.call(part, block))
                output.backward(take(gradient))
                if target is not None:
                    grad = torch.zeros_like(hidden) if hidden.grad is None else hidden.grad
                    self._placement.write(self._store, target, part, grad)
                del output, hidden
                self._after_part()
        return capture.moments

    def table(self, matrix: Matrix, gradient: int) -> TableMoments:
        """Run what comes before the blocks, and back to the word embedding.

        Args:
            matrix: The table.
            gradient: Slot of the gradient by the first boundary.
        """
        found = TableMoments(matrix.out_features, matrix.in_features)
        module = self._model.model.get_submodule(matrix.layer)
        scale = row_scale(module) or PLAIN
        with self._step():
            for part, take in self._parts([gradient]):
                calls: list[tuple[Tensor, Tensor]] = []
                hidden = self._entered(part, module, calls)
                hidden.backward(take(gradient))
                tokens = Tokens.of(part, self._calibration.batches[part.batch])
                for ids, output in calls:
                    if output.grad is not None:
                        values = as_sequences(output.grad, len(tokens.is_held), matrix.layer)
                        # The gradient by what it gave out is that by its rows, but for their factor.
                        found.add(ids.reshape(values.shape[:2]), scale.times(values), tokens)
                self._after_part()
        return found

    def _entered(self, part: Part, table: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Hidden state that reaches the first block, with its graph down to what the table gave out."""
        first = self._model.model.get_submodule(self._model.layout.blocks[0].path)
        entered: list[Tensor] = []

        def stop(*args: Any, **kwargs: Any) -> Any:
            entered.append(args[0] if args else kwargs["hidden_states"])
            raise _EnteredError

        def keep(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            leaf = output.detach().clone().requires_grad_()
            calls.append((args[0], leaf))
            # A copy: a leaf or a view of one may not be changed in place, as CTRL does when it scales its rows.
            return leaf.clone()

        handle = table.register_forward_hook(keep)
        try:
            with replaced_forwards([(first, stop)]), torch.enable_grad():
                self._model.model(**part.inputs)
        except _EnteredError:
            pass
        finally:
            handle.remove()
        if not entered or not entered[0].requires_grad:
            raise UnsupportedModelError("the first block does not read the word embedding; such a model cannot be compressed")
        return entered[0]

    def _check_losses(self, losses: Tensor, samples: Sequence[int], part: Part, hidden: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            sample = self._calibration.positions[samples[int(bad[0])]]
            raise NotFiniteError(
                f"the loss of sample {sample} is {float(losses[int(bad[0])])}, arising after the last block, "
                f"{self._origin_after_blocks(part, hidden)}; check its text, and the weights there"
            )


class _EnteredError(Exception):
    """Ends a forward pass at the first block."""


class HeadMoments:
    """Moments of the matrices after the blocks, and how many predictions there were."""

    def __init__(self, model: StreamedModel, heads: Sequence[Matrix]) -> None:
        self.num_predictions = 0.0
        self.outputs: dict[str, OutputMoments] = {}
        embeddings = model.model.get_output_embeddings()
        modules: dict[str, nn.Module] = {}
        self._captures: list[OutputCapture] = []
        for matrix in heads:
            path = matrix.tied[0] if matrix.place is Place.TIED else matrix.layer
            module = model.model.get_submodule(path)
            if module is embeddings:
                self.outputs[matrix.layer] = OutputMoments(matrix.out_features, matrix.in_features)
                self._captures.append(OutputCapture(module, self.outputs[matrix.layer]))
            else:
                modules[matrix.layer] = module
        self._capture = MomentCapture(modules, is_row_alone=True)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on, until the context ends."""
        with ExitStack() as stack:
            stack.enter_context(self._capture.hooked())
            for capture in self._captures:
                stack.enter_context(capture.hooked())
            yield

    @property
    def layers(self) -> Mapping[str, LayerMoments]:
        """Of heads that are no output embedding."""
        return self._capture.moments

    def start(self, tokens: Tokens) -> None:
        """Say which samples run next."""
        self._capture.start(tokens)

    def take(self, output: Any, part: Part, tokens: Tokens) -> None:
        """Take in the part that has just run."""
        for capture in self._captures:
            capture.take(output.logits.detach(), part.values, tokens)
