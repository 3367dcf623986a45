"""What a task is to the stages: how samples become a batch, what the loss of each is, how predictions are scored.

Losses are in nats per sample, so that gradients taken at their sum are per-sample gradients. A task never moves
tensors between devices: a batch is on the device its caller puts it on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.example import Batch, Example


class Task(ABC):
    """One kind of task with its label set. `outputs` is always what the Hugging Face model returned for the batch."""

    primary_metric: ClassVar[str]
    """The score that arms are compared by."""
    is_higher_better: ClassVar[bool] = True
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    """Keys of a batch that hold what is to be predicted, under the names Hugging Face models take them by."""

    is_padded_on: ClassVar[bool] = True
    """Whether `collate` heeds `multiple_of`: not where all samples are of one size."""

    loss_identity: ClassVar[dict[str, str]] = {}
    """What a record is known by in how the loss is taken, where that was otherwise when records were first made."""

    def __init__(self, info: TaskInfo) -> None:
        self.info = info

    @abstractmethod
    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Stack examples into a batch; exactly the keys the model's forward takes.

        Args:
            examples: Encoded samples.
            multiple_of: Tokens are padded to the longest example, and where the task `is_padded_on`, on to a multiple of this
                within its `max_length`.
        """

    @abstractmethod
    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Loss of each sample in nats, in float32, with its graph."""

    @abstractmethod
    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with labels drawn from the model's own predictive distribution, for the true Fisher.

        The draw happens on the generator's device, so one generator gives the same labels on every device.
        """

    @abstractmethod
    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """What `score` needs of each sample, on the CPU, detached."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Score predictions of `examples`, one for each, in the same order."""

    def model_inputs(self, batch: Batch) -> Batch:
        """Return the batch without its labels."""
        return {name: value for name, value in batch.items() if name not in self.label_keys}

    def token_mask(self, batch: Batch) -> Bool[Tensor, "batch tokens"] | None:
        """Which tokens are no padding; None where all count (images)."""
        mask = batch.get("attention_mask")
        return None if mask is None else mask.bool()


#: Rows of a large vocabulary that are in memory in float64 together.
_DRAWN_ROWS = 64


def draw_classes(logits: Float[Tensor, "rows classes"], generator: torch.Generator) -> torch.Tensor:
    """Draw one class of each row from its softmax, on the generator's device; returned on the device of `logits`.

    One uniform number a row, so that rows drawn in several calls get what they would get in one.
    """
    uniform = torch.rand(len(logits), 1, generator=generator, device=generator.device, dtype=torch.float64)
    drawn = []
    for start in range(0, len(logits), _DRAWN_ROWS):
        rows = slice(start, start + _DRAWN_ROWS)
        cumulated = logits[rows].detach().to(generator.device, torch.float64).softmax(-1).cumsum(-1)
        drawn.append(torch.searchsorted(cumulated, uniform[rows] * cumulated[:, -1:]).squeeze(1))
    classes = torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long)
    return classes.clamp_max_(logits.shape[-1] - 1).to(logits.device)
