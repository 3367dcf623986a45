"""Sentence embeddings: the unit vector along the mean of a text's last hidden states, as mean pooling has it.

An embedding u is read as the mean of a Gaussian of unit variance, so its loss against a target is ½ ‖u − target‖², and the
divergence of two models' embeddings u and v is ½ ‖u − v‖² = 1 − cos(u, v). Targets drawn from that Gaussian are u + ε: the
gradient of a sample is −Jᵀ ε, whose second moment is Jᵀ J, the Gauss–Newton matrix of 1 − cos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.example import Batch, Example
from layerlens.data.padding import pad_tokens, padded_length
from layerlens.data.task import Task


class Embedding(Task):
    """A task whose outputs hold `last_hidden_state` `[batch tokens features]`; data have no labels for it."""

    primary_metric = "cosine"

    def __init__(self, info: TaskInfo, pad_token_id: int) -> None:
        super().__init__(info)
        self.pad_token_id = pad_token_id

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Pad the tokens."""
        return pad_tokens(examples, self.pad_token_id, padded_length(examples, multiple_of, self.info.max_length))

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Half the squared distance from the target; 0 without one, where the model's own embedding is what is right."""
        embedding = unit_embedding(outputs, batch)
        target = batch["labels"] if "labels" in batch else embedding.detach()
        return 0.5 * (embedding - target).square().sum(-1)

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw each target from a Gaussian of unit variance around the embedding."""
        mean = unit_embedding(outputs, batch).detach()
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        return {**batch, "labels": mean + noise.to(mean.device)}

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """Embedding of each sample."""
        return list(unit_embedding(outputs, batch).detach().cpu().numpy())

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Mean cosine between different samples: 1 where all embeddings are the same."""
        total = np.sum(np.asarray(predictions, dtype=np.float64), axis=0)
        count = len(predictions)
        return {"cosine": float((total @ total - count) / max(1, count * (count - 1)))}


def mean_pooled(
    hidden: Float[Tensor, "samples tokens features"], mask: Bool[Tensor, "samples tokens"] | None
) -> Float[Tensor, "samples features"]:
    """Mean of each sample's hidden states in float32, over its real tokens."""
    if mask is None:
        return hidden.float().mean(1)
    weights = mask.to(hidden.device, torch.float32).unsqueeze(-1)
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def unit_embedding(outputs: Any, batch: Batch) -> Float[Tensor, "samples features"]:
    """Mean-pooled and normalised."""
    return normalize(mean_pooled(outputs.last_hidden_state, batch["attention_mask"].bool()), dim=-1)
