"""Perplexity of a text under a language model, by windows that say how they were cut.

    perplexity = exp( − 1/T Σ log p(token | tokens before it in its window) )     over the T tokens that are scored

Windows of `window` tokens start every `stride` tokens, each with a begin-of-text token before its text if so wished. A token is
scored once, in the first window that reaches it; the first of a window without a begin-of-text token has no context and is not
scored, unless an earlier window reached it.
Logits are taken to float32 and losses added in float64.

Source: Jelinek et al. (1977); for the stride, Baevski & Auli (2019), arXiv 1809.10853, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layerlens.artifacts.compression_evaluation import Windows
from layerlens.data.metrics import perplexity as perplexity_of
from layerlens.errors import ConfigError, DataError
from layerlens.models.frozen import frozen

#: Rows of logits whose losses are taken at once.
_LOSS_ROWS = 256


@dataclass(frozen=True)
class TokenWindows:
    """A text's tokens and how they are cut.

    Attributes:
        tokens: The text without special tokens.
        window: Tokens of a window, the begin-of-text token included.
        stride: Tokens from one window's start to the next one's.
        bos: The begin-of-text token that every window starts with; none for no such token.
    """

    tokens: Sequence[int]
    window: int
    stride: int
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.window < 2 or not 1 <= self.stride <= self.length:
            raise ConfigError(
                f"windows of {self.window} tokens every {self.stride} leave tokens out; the window must be at least 2, the "
                f"stride from 1 to {max(1, self.length)}"
            )
        if len(self.tokens) + (self.bos is not None) < 2:
            raise DataError(f"a text of {len(self.tokens)} tokens predicts nothing; give a longer one")

    @property
    def length(self) -> int:
        """Tokens of the text in a window."""
        return self.window - (self.bos is not None)

    @property
    def record(self) -> Windows:
        """What to write down."""
        return Windows(window=self.window, stride=self.stride, has_bos=self.bos is not None, num_tokens=len(self.tokens))

    def batches(self, batch_size: int) -> Iterator[WindowBatch]:
        """Windows of equal length together, so nothing is padded, in the order of the text."""
        rows: list[tuple[list[int], int]] = []
        for start, scored in self._places():
            text = list(self.tokens[start : start + self.length])
            prefix = [] if self.bos is None else [self.bos]
            row = prefix + text, scored - start + len(prefix)
            if rows and (len(rows) == batch_size or len(rows[0][0]) != len(row[0])):
                yield WindowBatch.of(rows)
                rows = []
            rows.append(row)
        if rows:
            yield WindowBatch.of(rows)

    def _places(self) -> Iterator[tuple[int, int]]:
        """Where each window starts, and the first token that it scores."""
        done = 0
        for start in range(0, len(self.tokens), self.stride):
            first = max(done, start + (self.bos is None))
            done = min(start + self.length, len(self.tokens))
            if first < done:
                yield start, first
            if done == len(self.tokens):
                return


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one length; `is_scored` says which tokens' losses count."""

    input_ids: Int[Tensor, "windows tokens"]
    is_scored: Bool[Tensor, "windows tokens"]

    @classmethod
    def of(cls, rows: Sequence[tuple[list[int], int]]) -> WindowBatch:
        """Build a batch from windows, each with the position of the first token that it scores."""
        ids = torch.tensor([row for row, _ in rows], dtype=torch.long)
        first = torch.tensor([scored for _, scored in rows])
        return cls(ids, torch.arange(ids.shape[1]) >= first[:, None])

    @property
    def targets(self) -> Int[Tensor, " scored"]:
        """The scored tokens."""
        return self.input_ids[self.is_scored]

    def logits(self, model: nn.Module) -> Float[Tensor, "scored vocabulary"]:
        """What a model predicts each scored token from, float32, on the model's device."""
        device = device_of(model)
        outputs: Any = model(input_ids=self.input_ids.to(device), attention_mask=torch.ones_like(self.input_ids, device=device))
        return outputs.logits[:, :-1][self.is_scored[:, 1:].to(device)].float()


@dataclass(frozen=True)
class Perplexity:
    """Mean loss over the scored tokens, and how they were cut."""

    loss_nats: float
    num_scored: int
    windows: Windows

    @property
    def perplexity(self) -> float:
        return perplexity_of(self.loss_nats)


def perplexity(model: nn.Module, windows: TokenWindows, *, batch_size: int = 8) -> Perplexity:
    """Measure a model's perplexity on a text.

    Args:
        model: A causal language model of transformers.
        windows: The text.
        batch_size: Windows that run together.
    """
    total, count = 0.0, 0
    with frozen(model), torch.inference_mode():
        for batch in windows.batches(batch_size):
            logits = batch.logits(model)
            total += float(token_losses(logits, batch.targets).sum())
            count += len(logits)
    return Perplexity(total / count, count, windows.record)


def token_losses(logits: Float[Tensor, "scored vocabulary"], targets: Int[Tensor, " scored"]) -> Float[Tensor, " scored"]:
    """Loss of each token in nats, float64, on the processor."""
    parts = [
        cross_entropy(logits[start : start + _LOSS_ROWS], targets[start : start + _LOSS_ROWS].to(logits.device), reduction="none")
        for start in range(0, len(logits), _LOSS_ROWS)
    ]
    return torch.cat(parts).double().cpu()


def cut_text(tokenizer: Any, text: str, *, window: int, stride: int | None = None) -> TokenWindows:
    """Tokenise a text for its perplexity; windows start with a begin-of-text token where the tokenizer puts one itself.

    Args:
        tokenizer: A tokenizer of transformers.
        text: The text.
        window: Tokens of a window.
        stride: None, or the window, for windows whose text does not overlap.

    Raises:
        ConfigError: the window is shorter than 2 or the stride longer than the window.
        DataError: fewer than two tokens.
    """
    tokens: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    with_special: list[int] = tokenizer("a", return_attention_mask=False)["input_ids"]
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and with_special[:1] == [bos]
    step = window - adds_bos if stride in (None, window) else stride
    return TokenWindows(tokens, window, step, bos if adds_bos else None)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is, by its first parameter or buffer."""
    return next(chain(model.parameters(), model.buffers())).device


def to_device_of(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch where the model is."""
    device = device_of(model)
    return {name: values.to(device) for name, values in batch.items()}
