"""Bytes at any length from counts at two."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.profiling.activation_memory import Counted, count_step
from layerlens.profiling.counted_samples import CountedSamples, counted_samples
from layerlens.profiling.step_memory import block_profiles, step_memory
from layerlens.words import TaskKind
from tests.unit.profiling.cases import block_spec, open_case


def counted(num_tokens: int, *, saved: float, working: float, outside: float) -> Counted:
    return Counted(2, num_tokens, True, [int(2 * saved)] * 2, [int(2 * working), 0], int(2 * outside))


def test_two_lengths_tell_what_grows_with_a_token_and_what_with_a_pair() -> None:
    counts = [counted(n, saved=80 * n + 3 * n**2, working=7 * n + n**2, outside=500 + 12 * n) for n in (64, 32)]
    (first, second), memory = block_profiles([block_spec("one"), block_spec("two", 1)], counts), step_memory(counts)
    assert (first.activation_bytes_per_token, first.attention_bytes_per_token_pair) == (80, 3)
    assert second.block == 1
    assert (memory.working_bytes_per_token, memory.working_bytes_per_token_pair) == (7, 1)
    assert (memory.outside_bytes_per_sample, memory.outside_bytes_per_token) == (500, 12)
    assert memory.is_padded


def test_one_length_is_exact_there() -> None:
    counts = [counted(50, saved=100, working=50, outside=30)]
    memory = step_memory(counts)
    assert block_profiles([block_spec("one")], counts)[0].activation_bytes_per_token == 2
    assert (memory.working_bytes_per_token, memory.outside_bytes_per_sample, memory.outside_bytes_per_token) == (1, 30, 0)


@pytest.mark.parametrize(("long", "short"), [(100, 60), (100, 10)])
def test_nothing_is_ever_below_zero_and_the_longer_length_stays_exact(long: int, short: int) -> None:
    counts = [counted(n, saved=num, working=num, outside=num) for n, num in ((64, long), (32, short))]
    block, memory = block_profiles([block_spec("one")], counts)[0], step_memory(counts)
    assert min(memory.model_dump().values()) >= 0
    assert 64 * block.activation_bytes_per_token + 64**2 * (block.attention_bytes_per_token_pair or 0) == pytest.approx(long)
    assert memory.outside_bytes_per_sample + 64 * memory.outside_bytes_per_token == pytest.approx(long)


@pytest.mark.parametrize(("family", "kind"), [("bert", TaskKind.CLASSIFICATION), ("llama", TaskKind.CAUSAL_LM)])
def test_counts_at_two_lengths_foretell_those_at_a_third(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind)
    tokens = list(range(10, 58))
    labels = tokens if kind is TaskKind.CAUSAL_LM else 1
    example = {"input_ids": tokens, "attention_mask": [1] * 48, "labels": labels}

    def of(length: int) -> Counted:
        short = {name: value[:length] if isinstance(value, list) else value for name, value in example.items()}
        padded = short | {"attention_mask": [1] * (length - 1) + [0]}
        return count_step(case.model, case.layout, case.task, CountedSamples([short, padded], length, is_padded=True))

    counts = [of(24), of(12)]
    block, memory, there = block_profiles(case.layout.blocks, counts)[0], step_memory(counts), of(48)
    saved = 48 * block.activation_bytes_per_token + 48**2 * (block.attention_bytes_per_token_pair or 0)
    outside = memory.outside_bytes_per_sample + 48 * memory.outside_bytes_per_token
    assert 2 * saved == pytest.approx(there.saved[0], rel=1e-3)
    assert 2 * outside == pytest.approx(there.outside, rel=1e-3)


def test_the_longest_sample_is_counted_whole_and_halved_and_padded_where_others_are_shorter(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.QUESTION_ANSWERING)
    short = {"input_ids": [5, 6], "attention_mask": [1, 1], "start_positions": 0, "end_positions": 1}
    eight = {"input_ids": list(range(10, 18)), "attention_mask": [1] * 8, "start_positions": 2, "end_positions": 3}
    whole, half = counted_samples(case.task, [short, eight, eight], [2, 8, 8])
    assert (whole.num_tokens, half.num_tokens, whole.is_padded) == (8, 4, True)
    assert [example["attention_mask"] for example in half.examples] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    # The last token stays: T5 and BART look for the end of the text.
    assert half.examples[0]["input_ids"] == [10, 11, 12, 17]
    # An answer beyond the end would be no token's.
    assert count_step(case.model, case.layout, case.task, half).outside > 0
    assert not counted_samples(case.task, [eight, eight], [8, 8])[0].is_padded


def test_images_and_samples_too_short_to_halve_are_counted_once(tmp_path: Path) -> None:
    images = open_case(tmp_path, "vit", TaskKind.IMAGE_CLASSIFICATION)
    assert [samples.num_tokens for samples in counted_samples(images.task, images.examples, [5] * 7)] == [5]
    texts = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    tiny = [{"input_ids": [5, 6], "attention_mask": [1, 1], "labels": 0}]
    assert [samples.num_tokens for samples in counted_samples(texts.task, tiny, [2])] == [2]
