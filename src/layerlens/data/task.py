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

    def __init__(self, info: TaskInfo) -> None:
        self.info = info

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack examples into a batch, padded to the longest; exactly the keys the model's forward takes."""

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


def draw_classes(logits: Float[Tensor, "rows classes"], generator: torch.Generator) -> torch.Tensor:
    """Draw one class of each row from its softmax, on the generator's device; returned on the device of `logits`."""
    shares = logits.detach().float().softmax(-1).to(generator.device)
    return torch.multinomial(shares, 1, generator=generator).squeeze(1).to(logits.device)
