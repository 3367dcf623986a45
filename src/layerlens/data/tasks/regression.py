"""Regression of one number from one text or a pair: half the squared error, Pearson and Spearman correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.profile import TaskInfo
from layerlens.data import metrics
from layerlens.data.example import Batch, Example
from layerlens.data.padding import pad_tokens, padded_length
from layerlens.data.task import Task


class Regression(Task):
    """A task whose outputs hold `logits` `[batch 1]` and whose label is a number, in the data's own unit."""

    primary_metric = "pearson"

    def __init__(self, info: TaskInfo, pad_token_id: int) -> None:
        super().__init__(info)
        self.pad_token_id = pad_token_id

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Pad the tokens; `labels` is float32 `[batch]`."""
        length = padded_length(examples, multiple_of, self.info.max_length)
        labels = torch.tensor([example["labels"] for example in examples], dtype=torch.float32)
        return {**pad_tokens(examples, self.pad_token_id, length), "labels": labels}

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Half the squared error: minus the log-likelihood of a Gaussian of unit variance, up to a constant.

        The model's own loss (mean squared error) is twice the mean of this.
        """
        return 0.5 * (outputs.logits.float().squeeze(-1) - batch["labels"]) ** 2

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw each label from a Gaussian of unit variance around the prediction."""
        mean = outputs.logits.detach().float().squeeze(-1)
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        return {**batch, "labels": mean + noise.to(mean.device)}

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """Predicted number of each sample."""
        return outputs.logits.detach().float().squeeze(-1).tolist()

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Pearson and Spearman correlation and the mean squared error."""
        predicted = np.array(predictions, dtype=np.float64)
        actual = np.array([example["labels"] for example in examples], dtype=np.float64)
        return {
            "pearson": metrics.pearson(predicted, actual),
            "spearman": metrics.spearman(predicted, actual),
            "mean_squared_error": metrics.mean_squared_error(predicted, actual),
        }
