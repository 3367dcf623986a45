"""How many log-likelihoods the loss of a sample is the mean of.

The Fisher information of a loss equals its curvature only where the loss is one negative log-likelihood. The mean of n of them
has 1/n² of the information of their sum, but 1/n of its curvature: so the curvature is n times the Fisher of the mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.data.example import Batch
from layerlens.data.padding import IGNORED_LABEL
from layerlens.words import TaskKind


def loss_terms(kind: TaskKind, batch: Batch) -> Float[Tensor, " samples"]:
    """Terms of each sample's loss: predicted tokens of a language model, start and end of an answer, else one."""
    if kind is TaskKind.CAUSAL_LM:
        # The first token is predicted by nothing.
        return (batch["labels"][:, 1:] != IGNORED_LABEL).sum(dim=1).clamp_min(1).float()
    num_samples = len(next(iter(batch.values())))
    return torch.full((num_samples,), 2.0 if kind is TaskKind.QUESTION_ANSWERING else 1.0)
