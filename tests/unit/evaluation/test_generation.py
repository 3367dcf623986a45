"""Generated text against a plain loop, speed on a clock that is set, memory by counting."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from layerlens.evaluation.generation import (
    generate_side_by_side,
    generation_speed,
    load_measured,
    resident_bytes,
    weight_bytes,
)
from tests.unit.evaluation.models import causal_pair, text_of, tokenizer_of


def greedy(model: nn.Module, ids: list[int], steps: int, end: int) -> list[int]:
    found: list[int] = []
    with torch.no_grad():
        while len(found) < steps and end not in found:
            found.append(int(model(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax()))
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_models_go_on_greedily_until_their_end_token(tmp_path: Path, family: str) -> None:
    original, other = causal_pair(tmp_path, family, noise=1.0)
    tokenizer = tokenizer_of(tmp_path, family)
    prompts = [text_of(length) for length in (3, 6)]
    found = generate_side_by_side(original, other, tokenizer, prompts, new_tokens=9)
    for prompt, sample in zip(prompts, found, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        before, after = (greedy(model, ids, 9, end=3) for model in (original, other))
        assert (sample.prompt, sample.num_tokens) == (prompt, len(before))
        assert sample.before == tokenizer.decode(before, skip_special_tokens=True)
        assert sample.after == tokenizer.decode(after, skip_special_tokens=True)
        shared = [one == two for one, two in zip(before, after, strict=False)]
        assert sample.num_same == ([*shared, False].index(False))
    same = generate_side_by_side(original, original, tokenizer, prompts, new_tokens=9)
    assert all(sample.num_same == sample.num_tokens for sample in same)


def test_speed_is_the_median_of_runs_in_turns_after_a_warm_up(tmp_path: Path) -> None:
    original, other = causal_pair(tmp_path, "llama")
    # A warm-up of each, then three runs of each in turns: 2, 8, 2 seconds against 1, 1, 50.
    seconds = [100.0, 90.0, 2.0, 1.0, 8.0, 1.0, 2.0, 50.0]
    times = iter([moment for start, taken in enumerate(seconds) for moment in (1000.0 * start, 1000.0 * start + taken)])
    clock = partial(next, times)
    found = generation_speed(original, other, torch.tensor([[5, 6, 7]]), new_tokens=4, repeats=3, clock=clock)
    assert (found.tokens_per_second.before, found.tokens_per_second.after) == (2.0, 4.0)
    assert (found.new_tokens, found.prompt_tokens, found.repeats, found.types) == (4, 3, 3, ["float32", "float32"])


def test_shared_memory_of_weights_counts_once(tmp_path: Path) -> None:
    tied, _ = causal_pair(tmp_path, "llama")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    expected = sum({id(one): one.nbytes for one in [*tied.parameters(), *tied.buffers()]}.values())
    assert weight_bytes(tied) == expected
    linear = nn.Linear(10, 4)
    linear.register_buffer("codes", torch.zeros(7, dtype=torch.int8))
    assert weight_bytes(linear) == 4 * 44 + 7


def test_a_loaded_model_shows_in_the_resident_set() -> None:
    if not resident_bytes():
        pytest.skip("this system does not tell the resident set")
    model, memory = load_measured(lambda: nn.Linear(4096, 4096, bias=False))
    assert memory.weight_bytes == weight_bytes(model) == 4 * 4096 * 4096
    assert memory.resident_after_bytes - memory.resident_before_bytes > 0.8 * memory.weight_bytes


def test_a_model_that_fits_into_freed_memory_still_counts() -> None:
    if not resident_bytes():
        pytest.skip("this system does not tell the resident set")
    # After the first has gone, the C library takes such pieces from its heap; they leave a hole there, kept by what lies above.
    torch.ones(7_500_000)
    pieces = [torch.ones(6_000_000) for _ in range(6)]
    above = pieces.pop()
    del pieces
    model, memory = load_measured(lambda: nn.Linear(4096, 4096, bias=False))
    assert above.sum() == 6_000_000
    assert memory.resident_after_bytes - memory.resident_before_bytes > 0.8 * weight_bytes(model)
