"""Causal language modelling: cross entropy of the next token, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.artifacts.profile import TaskInfo
from layerlens.data import metrics
from layerlens.data.example import Batch, Example
from layerlens.data.padding import IGNORED_LABEL, pad_lists, pad_tokens, padded_length
from layerlens.data.task import Task, draw_classes


class CausalLM(Task):
    """A task whose outputs hold `logits` `[batch tokens vocabulary]` and whose labels are the input tokens.

    As with Hugging Face models, `labels` is not shifted: the logits at token t are compared with the label at t + 1.
    """

    primary_metric = "perplexity"
    is_higher_better = False

    def __init__(self, info: TaskInfo, pad_token_id: int) -> None:
        super().__init__(info)
        self.pad_token_id = pad_token_id

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Pad the tokens; `labels` is int64 `[batch tokens]`, -100 where nothing is predicted."""
        length = padded_length(examples, multiple_of, self.info.max_length)
        labels = pad_lists([example["labels"] for example in examples], IGNORED_LABEL, length)
        return {**pad_tokens(examples, self.pad_token_id, length), "labels": labels}

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Mean over each sample's predicted tokens (0 where there is none).

        The model's own loss is the mean over all tokens of the batch, so it equals the mean of this only where all
        samples predict equally many.
        """
        total, count = _sums(outputs.logits, batch["labels"])
        return total / count.clamp(min=1)

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw each predicted token from the model's distribution given the true tokens before it."""
        labels = batch["labels"].clone()
        wanted = labels[:, 1:] != IGNORED_LABEL
        labels[:, 1:][wanted] = draw_classes(outputs.logits[:, :-1][wanted], generator)
        return {**batch, "labels": labels}

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """Summed loss in nats and number of predicted tokens of each sample."""
        total, count = _sums(outputs.logits.detach(), batch["labels"])
        return list(zip(total.tolist(), count.tolist(), strict=True))

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Perplexity over all predicted tokens, each weighing the same, and the mean loss it comes from."""
        loss_nats = sum(total for total, _ in predictions) / max(1, sum(count for _, count in predictions))
        return {"perplexity": metrics.perplexity(loss_nats), "loss_nats": loss_nats}


def _sums(
    logits: Float[Tensor, "batch tokens vocabulary"], labels: Int[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Summed loss and number of predicted tokens of each sample."""
    # Labels are shifted rather than logits: a slice of the logits would be copied, and they are the biggest tensor here.
    nothing = labels.new_full((labels.shape[0], 1), IGNORED_LABEL)
    targets = torch.cat([labels[:, 1:], nothing], dim=1)
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return losses.view_as(targets).sum(1), (targets != IGNORED_LABEL).sum(1)
