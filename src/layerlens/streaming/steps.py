"""What every pass over a model that stays on disk does alike: a step at a time, a block at a time, a part at a time.

    forward   hidden of boundary b ──► block b ──► hidden of boundary b + 1

Each step reads only what earlier steps wrote and writes elsewhere, so it can be done again from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from layerlens.errors import NotFiniteError
from layerlens.models.first_not_finite import first_not_finite_layer
from layerlens.models.frozen import frozen
from layerlens.models.streamed.load import StreamedModel
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.placement import HostPlacement, Placement, Take
from layerlens.streaming.samples import Part, Samples


class StreamedSteps:
    """Steps over one set of samples.

    Args:
        model: The streamed model.
        samples: Batches in parts.
        store: Hidden states and gradients.
        holds_weights: Keep the weights of the block at hand in memory; otherwise they are read in slices for every part.
        loss_tokens: Padded tokens that run through the head together; None for as many as through a block.
        after_part: Called after every part of every step; may raise to stop.
        placement: Where blocks are computed; None for the processor.
    """

    def __init__(
        self,
        model: StreamedModel,
        samples: Samples,
        store: ActivationStore,
        *,
        holds_weights: bool,
        loss_tokens: int | None,
        after_part: Callable[[], None],
        placement: Placement | None = None,
    ) -> None:
        self._model, self._samples, self._store = model, samples, store
        self._holds_weights, self._loss_tokens, self._after_part = holds_weights, loss_tokens, after_part
        self._placement = placement or HostPlacement()

    def forward(self, block: int, source: int | None, target: int) -> None:
        """Run a block over all samples.

        Args:
            block: Position of the block.
            source: Slot of its input; None for the embeddings' output.
            target: Slot of its output; its input's own where the step is never done again by itself.

        Raises:
            NotFiniteError: an output is NaN or infinite; names the first layer where it arises.
        """
        with self._step(), self._held(block), torch.no_grad():
            for part, take in self._parts([source]):
                hidden = self._hidden(part, take, source)
                output = self._model.skeleton.call(block, hidden, self._samples.call(part, block))
                if not bool(torch.isfinite(output).all()):
                    raise NotFiniteError(self._not_finite(block, hidden, part))
                self._placement.write(self._store, target, part, output)
                del output, hidden
                self._after_part()

    @contextmanager
    def _step(self) -> Iterator[None]:
        """The model as it is only looked at; at the end all that the step wrote is in the store."""
        with frozen(self._model.model):
            try:
                yield
            finally:
                self._placement.drain()

    def _held(self, block: int | None) -> AbstractContextManager[None]:
        """A block's weights at hand where they are to be held; None for what surrounds the blocks."""
        return self._placement.held(self._model, block) if self._holds_weights else nullcontext()

    def _parts(self, slots: Iterable[int | None], tokens_at_once: int | None = None) -> Iterator[tuple[Part, Take]]:
        """Every part, with what gives its values in these slots; None is in no slot."""
        wanted = [slot for slot in slots if slot is not None]
        return self._placement.reading(self._store, self._samples.parts(tokens_at_once), wanted)

    def _hidden(self, part: Part, take: Take, source: int | None) -> Tensor:
        return self._samples.entry(part).hidden.clone() if source is None else take(source)

    def _origin_after_blocks(self, part: Part, hidden: Tensor) -> str:
        """Where a loss arises that is not finite, of a part for which the last block gave a finite hidden state."""
        finish = self._model.skeleton.finish
        origin = first_not_finite_layer(self._model.model, lambda: finish(part.inputs, hidden))
        return f"first at {origin}" if origin else "in the loss itself"

    def _not_finite(self, block: int, hidden: Tensor, part: Part) -> str:
        """Say where a value that is not finite arises, and that nothing is wrong before it."""
        if bool(torch.isfinite(self._samples.entry(part).hidden).all()):
            path = self._model.layout.blocks[block].path
            module, call = self._model.model.get_submodule(path), self._samples.call(part, block)
            name = first_not_finite_layer(module, lambda: self._model.skeleton.call(block, hidden, call))
            where = path if name is None else f"{path}.{name}"
        else:
            # A table that stays on disk was never looked at as a whole.
            where = first_not_finite_layer(self._model.model, lambda: self._samples.entry(part)) or "the embeddings"
        return f"the output of {where} is NaN or infinite, the first of the model that is; check the model's weights"
