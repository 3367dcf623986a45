"""Features for fitting a new head without the whole model in memory: one streamed forward pass, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from torch import Tensor

from layerlens.data.example import Batch
from layerlens.data.task import Task
from layerlens.models.head import Features
from layerlens.models.streamed.load import StreamedModel
from layerlens.profiling.streamed.passes import StreamedPass
from layerlens.progress import Progress
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.placement import Placement
from layerlens.streaming.samples import Samples


class StreamedFeatures(Features):
    """Hidden states of the last block for the batches of a head fit.

    Args:
        model: The streamed model.
        task: The task.
        folder: Where the hidden states lie while they are needed.
        tokens_at_once: Padded tokens in a forward pass of a block.
        holds_weights: As `StreamedPass` takes it.
        after_part: As `StreamedPass` takes it.
        progress: Told of every block.
        placement: As `StreamedPass` takes it.
    """

    def __init__(
        self,
        model: StreamedModel,
        task: Task,
        folder: Path,
        *,
        tokens_at_once: int,
        holds_weights: bool,
        after_part: Callable[[], None],
        progress: Progress,
        placement: Placement,
    ) -> None:
        self._model, self._task, self._folder = model, task, folder
        self._tokens_at_once, self._holds_weights = tokens_at_once, holds_weights
        self._after_part, self._progress, self._placement = after_part, progress, placement
        self._stores: list[ActivationStore] = []

    def prepare(self, batches: Sequence[Batch]) -> Callable[[int], AbstractContextManager[None]]:
        """Run the blocks over the batches; the result makes the model's forward pass of batch i take the kept hidden state."""
        samples = Samples.of_batches(self._model.skeleton, self._task, batches, self._tokens_at_once)
        store = ActivationStore(self._folder / f"features-{len(self._stores)}.bin", samples.shapes, num_slots=1)
        self._stores.append(store)
        steps = StreamedPass(
            self._model,
            samples,
            store,
            holds_weights=self._holds_weights,
            after_part=self._after_part,
            placement=self._placement,
        )
        num_blocks = len(self._model.layout.blocks)
        self._placement.follow(range(num_blocks))
        # In place: a part is read before it is written, and a fit that was stopped starts from the embeddings again.
        for block in self._progress.track(range(num_blocks), "features for the head", total=num_blocks):
            steps.forward(block, None if block == 0 else 0, 0)

        @contextmanager
        def at(batch: int) -> Iterator[None]:
            hidden: Tensor = store.read(0, batch, 0, samples.shapes[batch][0]).to(self._placement.device)
            with self._model.skeleton.finishing(hidden):
                yield

        return at

    def close(self) -> None:
        """Delete what was kept."""
        for store in self._stores:
            store.remove()
        self._stores.clear()
