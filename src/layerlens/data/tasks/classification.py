"""Single and pair classification of text: cross entropy, accuracy, F1 and Matthews correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.artifacts.profile import TaskInfo
from layerlens.data import metrics
from layerlens.data.example import Batch, Example
from layerlens.data.padding import pad_tokens, padded_length
from layerlens.data.task import Task, draw_classes


class LabelledClasses(Task):
    """A task whose outputs hold `logits` `[batch classes]` and whose label is one class."""

    primary_metric = "accuracy"

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Cross entropy of each sample; the mean over the batch is the model's own loss."""
        return cross_entropy(outputs.logits.float(), batch["labels"], reduction="none")

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw each sample's class from its softmax."""
        return {**batch, "labels": draw_classes(outputs.logits, generator)}

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """Most probable class of each sample."""
        return outputs.logits.detach().argmax(-1).tolist()

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy and Matthews correlation; F1 of class 1 for two classes, the mean over classes for more."""
        predicted = np.array(predictions, dtype=np.int64)
        actual = np.array([example["labels"] for example in examples], dtype=np.int64)
        scores = {"accuracy": metrics.accuracy(predicted, actual)}
        if self.info.num_labels == 2:
            scores["f1"] = metrics.f1(predicted, actual)
        else:
            scores["macro_f1"] = metrics.macro_f1(predicted, actual)
        scores["matthews"] = metrics.matthews(predicted, actual)
        return scores


class Classification(LabelledClasses):
    """Classification of one text or of a pair of texts."""

    def __init__(self, info: TaskInfo, pad_token_id: int) -> None:
        super().__init__(info)
        self.pad_token_id = pad_token_id

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Pad the tokens; `labels` is int64 `[batch]`."""
        length = padded_length(examples, multiple_of, self.info.max_length)
        labels = torch.tensor([example["labels"] for example in examples], dtype=torch.long)
        return {**pad_tokens(examples, self.pad_token_id, length), "labels": labels}
