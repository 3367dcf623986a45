"""Extractive question answering: cross entropy of the answer's first and last token, exact match and F1.

A sample is one question with the window of its context that holds the answer, so scores are those of a reader who is
handed the right window; where the context fits one window, as most do at 384 tokens, they are SQuAD's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.example import Batch, Example
from layerlens.data.padding import pad_tokens, padded_length
from layerlens.data.squad_score import answer_f1, exact_match
from layerlens.data.task import Task, draw_classes

MAX_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class SpanLogits:
    """Start and end logits of one sample's tokens, padding cut off."""

    start: Float[np.ndarray, " tokens"]
    end: Float[np.ndarray, " tokens"]


class QuestionAnswering(Task):
    """A task whose outputs hold `start_logits` and `end_logits` `[batch tokens]`."""

    primary_metric = "f1"
    label_keys = ("start_positions", "end_positions")
    loss_identity: ClassVar[dict[str, str]] = {"loss_over": "own tokens"}

    def __init__(self, info: TaskInfo, pad_token_id: int) -> None:
        super().__init__(info)
        self.pad_token_id = pad_token_id

    def collate(self, examples: Sequence[Example], *, multiple_of: int = 1) -> Batch:
        """Pad on the right; `start_positions` and `end_positions` are int64 `[batch]`, both inside the answer."""
        ends = {name: torch.tensor([example[name] for example in examples], dtype=torch.long) for name in self.label_keys}
        length = padded_length(examples, multiple_of, self.info.max_length)
        return {**pad_tokens(examples, self.pad_token_id, length), **ends}

    def per_sample_loss(self, outputs: Any, batch: Batch) -> Float[Tensor, " batch"]:
        """Mean of the cross entropies of start and end over the sample's tokens.

        Where nothing is padded the batch mean is the model's own loss, whose softmax runs over padding too: there a sample's loss
        depends on what it is batched with.
        """
        start, end = span_logits(outputs, self.token_mask(batch))
        start_loss = cross_entropy(start, batch["start_positions"], reduction="none")
        return (start_loss + cross_entropy(end, batch["end_positions"], reduction="none")) / 2

    def sample_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw start and end, each from its own softmax, as the loss treats them."""
        start, end = span_logits(outputs, self.token_mask(batch))
        return {**batch, "start_positions": draw_classes(start, generator), "end_positions": draw_classes(end, generator)}

    def predictions(self, outputs: Any, batch: Batch) -> list[Any]:
        """Logits of each sample; the answer's text is found in `score`, which knows the context."""
        lengths = batch["attention_mask"].sum(1).tolist()
        starts = outputs.start_logits.detach().float().cpu().numpy()
        ends = outputs.end_logits.detach().float().cpu().numpy()
        return [SpanLogits(start[:length], end[:length]) for start, end, length in zip(starts, ends, lengths, strict=True)]

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """Mean exact match and F1, in 0 … 1, against the best of each sample's reference answers."""
        texts = [best_answer(spans, example) for spans, example in zip(predictions, examples, strict=True)]
        matches = [exact_match(text, example["answers"]) for text, example in zip(texts, examples, strict=True)]
        overlaps = [answer_f1(text, example["answers"]) for text, example in zip(texts, examples, strict=True)]
        return {"f1": float(np.mean(overlaps)), "exact_match": float(np.mean(matches))}


def span_logits(outputs: Any, mask: Bool[Tensor, "batch tokens"] | None) -> list[Float[Tensor, "batch tokens"]]:
    """Start and end logits in float32, −∞ at padding.

    Args:
        outputs: What the model gave back.
        mask: Which tokens are no padding; none where all count.
    """
    both = [outputs.start_logits.float(), outputs.end_logits.float()]
    return both if mask is None else [logits.masked_fill(~mask, -torch.inf) for logits in both]


def best_answer(spans: SpanLogits, example: Example) -> str:
    """Text of the span of context tokens, at most `MAX_ANSWER_TOKENS` long, with the largest sum of logits."""
    places = [place for place, offset in enumerate(example["offsets"]) if offset is not None]
    start, end = spans.start[places], spans.end[places]
    sums = start[:, None] + end[None, :]
    is_span = np.triu(np.ones_like(sums, dtype=bool)) & ~np.triu(np.ones_like(sums, dtype=bool), MAX_ANSWER_TOKENS)
    first, last = np.unravel_index(np.argmax(np.where(is_span, sums, -np.inf)), sums.shape)
    begin_char = example["offsets"][places[int(first)]][0]
    end_char = example["offsets"][places[int(last)]][1]
    return str(example["context"][begin_char:end_char])
