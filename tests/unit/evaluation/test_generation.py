"""Generated text against a plain loop, speed on a clock that is set, memory by counting."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel

from layerlens.evaluation.generation import (
    generate_side_by_side,
    generation_speed,
    load_measured,
    resident_bytes,
    run_once,
    weight_bytes,
)
from tests.tiny_models import save_tiny
from tests.unit.evaluation.models import causal_pair, text_of, tokenizer_of

needs_resident = pytest.mark.skipif(not resident_bytes()[0], reason="this system does not tell the resident set")


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


def run(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.ones(1, 4096))


@needs_resident
def test_a_loaded_model_shows_in_the_resident_set() -> None:
    model, memory = load_measured(lambda: nn.Linear(4096, 4096, bias=False), run)
    assert memory.weight_bytes == weight_bytes(model) == 4 * 4096 * 4096
    assert memory.resident_after_bytes - memory.resident_before_bytes > 0.8 * memory.weight_bytes


@needs_resident
def test_weights_that_stay_in_a_mapped_file_count_once_they_are_used(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(4096, 4096)}, tmp_path / "model.safetensors")

    def load() -> nn.Module:
        model = nn.Linear(4096, 4096, bias=False, device="meta")
        model.load_state_dict(
            {"weight": torch.from_file(str(tmp_path / "model.safetensors"), size=4096 * 4096).view(4096, 4096)}, assign=True
        )
        return model

    _, idle = load_measured(load, lambda model: None)
    assert idle.resident_after_bytes - idle.resident_before_bytes < 0.2 * idle.weight_bytes
    model, memory = load_measured(load, run)
    assert memory.file_before_bytes is not None
    assert memory.file_after_bytes is not None
    assert memory.file_after_bytes - memory.file_before_bytes > 0.8 * weight_bytes(model)
    assert memory.resident_after_bytes - memory.resident_before_bytes > 0.8 * weight_bytes(model)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_any_model_runs_once_in_its_own_type(tmp_path: Path, family: str) -> None:
    model = AutoModel.from_pretrained(save_tiny(family, tmp_path / family), dtype=torch.bfloat16)
    taken: list[torch.dtype] = []
    model.register_forward_hook(lambda _, __, outputs: taken.append(outputs.last_hidden_state.dtype))
    run_once(model, {"pixel_values": torch.ones(1, 3, 16, 16)} if family == "vit" else {"input_ids": torch.tensor([[2, 5, 3]])})
    assert taken == [torch.bfloat16]


@needs_resident
def test_a_model_that_fits_into_freed_memory_still_counts() -> None:
    # After the first has gone, the C library takes such pieces from its heap; they leave a hole there, kept by what lies above.
    torch.ones(7_500_000)
    pieces = [torch.ones(6_000_000) for _ in range(6)]
    above = pieces.pop()
    del pieces
    model, memory = load_measured(lambda: nn.Linear(4096, 4096, bias=False), run)
    assert above.sum() == 6_000_000
    assert memory.resident_after_bytes - memory.resident_before_bytes > 0.8 * weight_bytes(model)
