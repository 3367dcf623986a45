"""What two models are compared by, for every kind of task: rows of predictions, and the sample that each belongs to.

language model        a distribution over the vocabulary for every predicted token
classification        one distribution over the classes
question answering    two distributions over the sample's tokens: where the answer starts, where it ends
regression            the mean of a Gaussian of unit variance, as its loss has it
no trained head       the mean-pooled embedding
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerlens.data.example import Batch
from layerlens.data.padding import IGNORED_LABEL
from layerlens.data.task import Task
from layerlens.data.tasks.embedding import mean_pooled
from layerlens.data.tasks.question_answering import span_logits
from layerlens.linalg.divergence import cosine_distance, row_divergence
from layerlens.words import TaskKind


class Compared(StrEnum):
    """What a row is, and how far two rows are apart."""

    DISTRIBUTION = "distribution"
    """Logits; KL(p‖q) in nats."""
    NUMBER = "number"
    """Means of Gaussians of unit variance; KL is half the squared difference, in nats."""
    EMBEDDING = "embedding"
    """Vectors; 1 − cosine."""


@dataclass(frozen=True)
class ComparedRows:
    """Rows of one batch, with the position in the batch of the sample that each belongs to."""

    rows: Float[Tensor, "rows features"]
    samples: Int[Tensor, " rows"]
    kind: Compared


@dataclass(frozen=True)
class Distances:
    """Of each row: how far it is from the reference's (float64), whether the top class is the same, the logits' cosine.

    The last two are none where rows are no logits.
    """

    values: Float[Tensor, " rows"]
    is_same_top: Bool[Tensor, " rows"] | None
    cosine: Float[Tensor, " rows"] | None


def predicted_rows(task: Task, outputs: Any, batch: Batch) -> ComparedRows:
    """What a model with a head predicts of a batch; positions without a label, padding among them, are left out.

    Args:
        task: The task.
        outputs: What the model gave back.
        batch: The batch with its labels.
    """
    match task.info.kind:
        case TaskKind.CAUSAL_LM:
            wanted = batch["labels"][:, 1:] != IGNORED_LABEL
            return ComparedRows(outputs.logits[:, :-1][wanted].float(), wanted.nonzero()[:, 0], Compared.DISTRIBUTION)
        case TaskKind.QUESTION_ANSWERING:
            is_token = batch["attention_mask"].bool()
            samples = torch.arange(len(is_token), device=is_token.device)
            return ComparedRows(torch.cat(span_logits(outputs, is_token)), samples.repeat(2), Compared.DISTRIBUTION)
        case TaskKind.EMBEDDING:
            return embedded_rows(outputs.last_hidden_state, task.token_mask(batch))
        case kind:
            rows = outputs.logits.float()
            is_number = kind is TaskKind.REGRESSION
            samples = torch.arange(len(rows), device=rows.device)
            return ComparedRows(rows, samples, Compared.NUMBER if is_number else Compared.DISTRIBUTION)


def embedded_rows(hidden: Float[Tensor, "samples tokens features"], mask: Bool[Tensor, "samples tokens"] | None) -> ComparedRows:
    """The mean of each sample's hidden states over its tokens.

    Args:
        hidden: The base model's last hidden state.
        mask: Which tokens are no padding; none where all count.
    """
    rows = mean_pooled(hidden, mask)
    return ComparedRows(rows, torch.arange(len(rows), device=rows.device), Compared.EMBEDDING)


def distances(reference: ComparedRows, other: ComparedRows) -> Distances:
    """How far each row is from the reference's."""
    match reference.kind:
        case Compared.EMBEDDING:
            return Distances(cosine_distance(reference.rows, other.rows), None, None)
        case Compared.NUMBER:
            return Distances(0.5 * (reference.rows.double() - other.rows.double()).square().sum(-1), None, None)
        case Compared.DISTRIBUTION:
            found = row_divergence(reference.rows, other.rows)
            return Distances(found.kl_nats, found.is_same_top, found.cosine)
