"""Perplexity against transformers' own loss, and token by token against a model that sees just one window."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from layerlens.errors import ConfigError, DataError
from layerlens.evaluation.perplexity import TokenWindows, cut_text, perplexity
from tests.unit.evaluation.models import causal_pair, text_of, tokenizer_of

FAMILIES = ["gpt2", "gpt_neo", "llama"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_that_do_not_overlap_give_the_models_own_loss(tmp_path: Path, family: str, batch_size: int) -> None:
    model, _ = causal_pair(tmp_path, family)
    windows = cut_text(tokenizer_of(tmp_path, family), text_of(50), window=12)
    found = perplexity(model, windows, batch_size=batch_size)
    total, count = 0.0, 0
    for start in range(0, 50, 12):
        ids = torch.tensor([list(windows.tokens[start : start + 12])])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert found.loss_nats == pytest.approx(total / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found.num_scored == count == 45
    assert found.windows.model_dump() == {"window": 12, "stride": 12, "has_bos": False, "num_tokens": 50}


@pytest.mark.parametrize("stride", [1, 3, 5, 7])
@pytest.mark.parametrize("bos", [None, 2])
def test_every_token_is_scored_once_in_the_first_window_that_reaches_it(tmp_path: Path, stride: int, bos: int | None) -> None:
    model, _ = causal_pair(tmp_path, "llama")
    tokens = [(11 * number) % 180 + 5 for number in range(30)]
    window = 8 if bos is not None else 7
    found = perplexity(model, TokenWindows(tokens, window, stride, bos), batch_size=4)
    losses = []
    for token in range(30):
        start = min(start for start in range(0, 30, stride) if start <= token < start + 7)
        context = ([] if bos is None else [bos]) + tokens[start:token]
        if context:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([context])).logits[0, -1]
            losses.append(-float(logits.log_softmax(-1)[tokens[token]]))
    assert found.num_scored == len(losses)
    assert found.loss_nats == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_text_starts_with_the_begin_token_where_the_tokenizer_puts_one(tmp_path: Path) -> None:
    causal_pair(tmp_path, "llama")
    tokenizer = tokenizer_of(tmp_path, "llama")
    assert cut_text(tokenizer, text_of(5), window=4).bos is None
    from tests.tiny_models import save_tokenizer

    save_tokenizer(tmp_path / "llama", is_decoder=False)
    windows = cut_text(tokenizer_of(tmp_path, "llama"), text_of(5), window=4)
    assert (windows.bos, windows.stride, len(windows.tokens), windows.record.has_bos) == (2, 3, 5, True)
    assert cut_text(tokenizer_of(tmp_path, "llama"), text_of(5), window=4, stride=4) == windows
    first = next(windows.batches(8))
    assert first.input_ids.tolist() == [[2, *windows.tokens[:3]]]
    assert first.is_scored.tolist() == [[False, True, True, True]]


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="windows of 4 tokens every 5 leave tokens out"):
        TokenWindows([1, 2, 3], 4, 5)
    with pytest.raises(ConfigError, match="at least 2"):
        TokenWindows([1, 2, 3], 1, 1)
    with pytest.raises(ConfigError, match="stride from 1 to 3"):
        TokenWindows([1, 2, 3], 4, 4, bos=0)
    with pytest.raises(DataError, match="a text of 1 tokens predicts nothing"):
        TokenWindows([1], 4, 4)
